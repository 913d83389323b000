"""The transformer and everything one forward pass needs. Imports nothing else of Narrador's."""

# The command looks for this mark: `model` is a common name, and another one may lie earlier on the path.
NARRADOR = "narrador.model"
