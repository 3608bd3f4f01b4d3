"""The parts of wrong_labels.py."""
