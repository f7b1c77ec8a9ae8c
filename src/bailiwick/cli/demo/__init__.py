"""The demonstration: one governed request, from its authority to its proof, on real parts."""
