"""The wheel holds a library for one platform, which every Python 3 loads by ctypes: its tag says so."""

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel


class Tagged(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithLibrary(Distribution):
    def has_ext_modules(self):
        return True


setup(cmdclass={"bdist_wheel": Tagged}, distclass=WithLibrary)
