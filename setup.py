"Everything about the package stands in `settings.ini`; this file only hands it to setuptools"
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_namespace_packages, setup

parser = ConfigParser(delimiters=['='])
parser.read('settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
extras = {key.removesuffix('_requirements'): val.split() for key, val in cfg.items() if key.endswith('_requirements')}
licenses = {'apache2': 'Apache-2.0'}
# pictures lie beside README.md in the repository, and nowhere near it on a package index
readme = re.sub(r'(!\[[^\]]*\]\()(?![a-z]+:|#)', rf"\g<1>{cfg['git_url'].replace('github.com', 'raw.githubusercontent.com')}/{cfg['branch']}/",
                Path('README.md').read_text(encoding='utf-8'))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license=licenses[cfg['license']], url=cfg['git_url'],
    long_description=readme, long_description_content_type='text/markdown',
    packages=find_namespace_packages(include=[cfg['lib_path'] + '*'], exclude=['*__pycache__*', '*.egg-info']), include_package_data=True,
    install_requires=cfg['requirements'].split(), extras_require=extras, python_requires='>=' + cfg['min_python'],
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
