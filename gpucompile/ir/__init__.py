"""The intermediate representation: types, ops, graphs, their text form and their numpy interpreter."""
