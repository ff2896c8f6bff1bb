"""Synthetic faces of people who do not exist: identities, drawn with pose, expression, light and a poor camera."""
