"""A claim: a paper's statement as a runnable experiment with arms, controls, seeds and a verdict.

``mmalign.claims.definition`` says what a claim is, ``mmalign.claims.run`` runs one.  The definitions
themselves are plug-ins of the registry group ``claims``.
"""
