"""The parts of the handover room, built into an installation as those of the assurance room are."""
