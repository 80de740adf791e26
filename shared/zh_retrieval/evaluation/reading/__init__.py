"""Folders and files of users to datasets, with what is wrong in them named."""
