"""Where rules come from. Each source makes documents (core/document.py) of what it reads; core/rules.py makes them rules."""
