"""Questions asked of the data before anything is learnt from them."""
