"""Tools of this repository only: they write the generated tables of its documents."""
