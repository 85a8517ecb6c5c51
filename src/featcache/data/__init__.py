"""Where images come from and how they become arrays. No network and no HDF5 here."""
