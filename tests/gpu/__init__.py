"""Tests of code for a GPU, which need none; ``script/test --gpu`` runs them."""
