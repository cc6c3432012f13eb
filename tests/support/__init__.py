"""What several test floors share: fakes, labs, and a small PKI. Imported as ``tests.support.<module>``."""
