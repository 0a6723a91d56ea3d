"""What people read: page, figures, words."""
