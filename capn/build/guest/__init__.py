"""Programs that run in the guest (package data): `bootstrap.sh` and `report.sh`, POSIX sh."""
