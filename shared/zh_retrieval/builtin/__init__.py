"""What ships inside the package: the built-in offline model and the demo corpus."""
