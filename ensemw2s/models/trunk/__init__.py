"""The trunk: the layers below the adapters, whose hidden states are computed once and kept."""
