"""What runs where: choose or start an instance, own it, give it back."""
