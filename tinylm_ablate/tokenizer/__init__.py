"""Vocabularies: trained, imported, counted on the text and cut to the paper's compact form (Section 2.1)."""
