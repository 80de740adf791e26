"""What each vendor's clients ask and how it is answered; `embedding` and `scoring` are what they share."""
