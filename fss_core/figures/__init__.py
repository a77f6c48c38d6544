"""Numbers → Plotly figures; no Streamlit.

Every figure comes in a light and a dark design on a transparent ground, to be shown with Streamlit's own theme off
(``theme=None``), and has a sentence that says the same to those who do not see it (``*_alt``).
"""
