"""One function for each operation of the dialect: the C statements that compute it."""
