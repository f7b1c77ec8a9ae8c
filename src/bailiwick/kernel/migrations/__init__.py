"""Schema migrations: ``NNNN_pre_…`` runs before new code starts, ``NNNN_post_…`` once it runs everywhere."""
