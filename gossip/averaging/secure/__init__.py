"""Secure: sums of which a group learns nothing but the sum."""
