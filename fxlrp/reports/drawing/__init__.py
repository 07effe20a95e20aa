"""Pictures: of models with their rules and relevance, of words, of images.

Takes plans, programs and relevances. Returns SVG, PNG, PDF, interactive pages that need no network, and coloured
text. What is shown (`picture`) is apart from how it is drawn (`dot`, `page`); a colour means the same in every
picture.
"""
