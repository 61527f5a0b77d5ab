"""Everything around a request that no wire format decides: who may ask, how much, how it is packed, what is counted."""
