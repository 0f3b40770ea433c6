"""The paper's test protocols, which define the views of an image that a network scores."""
