"""What each dialect asks and how it is answered."""
