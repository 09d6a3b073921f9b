"""The doors that only Apache has, and the installation into Apache."""
