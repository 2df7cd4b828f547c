"""docs/licences.md is about what is locked now, and says what the packages say."""

from importlib import metadata

from infra import jars, licences


def test_every_locked_package_and_jar_has_its_licence() -> None:
    """The page's names, versions and uses are those of the two locks, each with a licence: `make lock` was run."""
    listed = licences.read()
    pinned = [(name, version, "run" if at_run_time else "development") for name, version, at_run_time in licences.packages()]
    kafka = [(*jar.coordinate.rsplit(":", 1), "embedded Kafka") for jar in jars.locked()]
    assert [(row.name, row.version, row.used) for row in listed] == [*pinned, *kafka]
    assert all(row.licence for row in listed)


def test_the_licences_are_what_the_packages_say() -> None:
    """Of every package that is installed here in the version that is listed."""
    here = {(row.name, row.version): row.licence for row in licences.read() if row.used != "embedded Kafka"}
    installed = {(name, version): licences.licence(name) for name, version in here if _version(name) == version}
    assert len(installed) > 80
    assert installed == {package: here[package] for package in installed}


def test_what_is_needed_at_run_time_is_told_from_what_tests_need() -> None:
    """Directly or through others: aiohttp is Faust's, werkzeug is only schemathesis's."""
    used = {package.name: package.at_run_time for package in licences.packages()}
    assert [used[name] for name in ("starlette", "aiohttp", "pytest", "werkzeug")] == [True, True, False, False]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
