"""A module as an HTML page: the IR -> facts (plain numbers and texts) -> one self-contained file."""
