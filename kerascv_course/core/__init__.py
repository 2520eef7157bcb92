"""What every part stands on: errors, files, images, environment. Standard library, NumPy and Pillow only."""
