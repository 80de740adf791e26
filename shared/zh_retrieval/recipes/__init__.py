"""The models as data: what a recipe says, the catalogue of them, and how one is found."""
