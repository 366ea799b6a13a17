"""NoCloud seed image: how a machine gets its user-data.

Role: an ISO 9660 image (volume id CIDATA, Joliet and Rock Ridge) made in memory. Must not: touch the disk; the bytes
are secret and belong in a volume with mode 0600.
"""

from __future__ import annotations

import io

from pycdlib import PyCdlib


def build_seed(user_data: bytes, meta_data: bytes, network_config: bytes | None = None) -> bytes:
    """The image's bytes. Without `network_config` cloud-init configures the first interface by DHCP."""
    files = {"user-data": user_data, "meta-data": meta_data}
    if network_config is not None:
        files["network-config"] = network_config
    image = PyCdlib()
    image.new(interchange_level=3, vol_ident="CIDATA", joliet=3, rock_ridge="1.09")
    for number, (name, content) in enumerate(files.items()):
        # ISO 9660 proper allows only upper case and no hyphen; Linux reads the Rock Ridge name.
        image.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}")
    output = io.BytesIO()
    image.write_fp(output)
    image.close()
    return output.getvalue()
