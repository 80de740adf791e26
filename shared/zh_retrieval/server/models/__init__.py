"""The models that are served: by id, loaded, proved, watched."""
