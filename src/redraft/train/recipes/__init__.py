"""Recipes: what a bundled model is trained on, and how."""
