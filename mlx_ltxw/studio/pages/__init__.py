"""The studio's pages, in the order of its navigation."""

from mlx_ltxw.studio import texts
from mlx_ltxw.studio.pages import hear, keep, make, train
from mlx_ltxw.studio.pages.page import Page

PAGES = (
    Page(texts.MAKE, "/", make.show),
    Page(texts.HEAR, "/hear", hear.show),
    Page(texts.KEEP, "/keep", keep.show),
    Page(texts.TRAIN, "/train", train.show),
)
