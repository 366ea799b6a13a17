"""Third-party programs: which ones, in which version, and how they get into the cache (built or downloaded)."""
