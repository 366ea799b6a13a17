"""Pure models of the custom resources, their conditions, and the CRDs and pages generated from them."""
