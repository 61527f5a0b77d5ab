"""The Sudoku recipe: puzzles, their layout in tokens, the model's shape, its evaluation and export."""
