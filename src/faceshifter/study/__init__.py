"""Human evaluation of swaps, Section 4.1 and Table 2: a web page, its votes and their table."""
