"""Networks, one file for each family: pure modules without optimisers, losses or devices of their own."""
