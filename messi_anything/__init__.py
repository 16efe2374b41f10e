"Give it a photo: it finds the people and paints somebody else in their place"
__version__ = "0.1.0"

from importlib import import_module as _import_module

# Names that `from messi_anything import ...` offers, and the module each lives in. They load on first use,
# so that `import messi_anything` itself costs next to nothing.
_names = dict(replace='pipeline', ReplaceCfg='pipeline', Result='pipeline', load_image='images', save_image='provenance',
              Segmenter='segment', Inpainter='inpaint', PixelInpainter='inpaint', MessiError='core', ImageError='core',
              DataError='core', WeightsError='core', ConfigError='core', measure='fid')
__all__ = list(_names)

def __getattr__(name):
    if name not in _names: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(_import_module(f'.{_names[name]}', __name__), name)

def __dir__(): return sorted([*globals(), *__all__])
