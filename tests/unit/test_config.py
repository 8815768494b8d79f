from __future__ import annotations

import dataclasses
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from streams_queue.config import (
    FACTORY_REQUIRES,
    REDIS_REQUIRES,
    CompressionSettings,
    FallbackSettings,
    MetricBounds,
    Settings,
    TelemetrySettings,
    load_config,
    redact_url,
)
from streams_queue.errors import ConfigError
from streams_queue.retry import RetryPolicy

EXAMPLE = Path(__file__).parents[2] / "config" / "webhook_config.yaml"

# Section 3 and section 7.1 of the plan, as written.
PLAN = """
queue:
  type: "redis"  # or "asyncio" for backward compatibility
  redis_url: "redis://localhost:6379/0"
  max_size: 10000
  timeout: 30
  retry_policy:
    max_retries: 3
    base_delay: 1
"""
PLAN_METRICS = """
metrics:
  - name: redis_queue_depth
    type: gauge
    threshold: 1000

  - name: redis_operation_latency
    type: histogram
    buckets: [1, 2, 5, 10, 20, 50]

  - name: redis_error_rate
    type: counter
    alert_threshold: 1%
"""


def queue_config(**changes: Any) -> dict[str, Any]:
    """Return the plan's configuration with some of its keys changed."""
    return {"queue": {**yaml.safe_load(PLAN)["queue"], **changes}}


def problems_of(source: Any, **options: Any) -> list[str]:
    """Return what is reported about a configuration that must be refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(source, **{"environ": {}, **options})
    return list(caught.value.problems)


# --- what is accepted --------------------------------------------------------------------------------------------


def test_the_plans_configuration_loads_as_written() -> None:
    """Section 3 of the plan is a complete configuration; what it does not name has defaults."""
    settings = load_config(yaml.safe_load(PLAN), require=FACTORY_REQUIRES)
    assert settings == Settings(
        type="redis",
        redis_url="redis://localhost:6379/0",
        max_size=10_000,
        timeout=30.0,
        retry_policy=RetryPolicy(max_retries=3, base_delay=1.0),
    )


def test_the_plans_metrics_load_as_written() -> None:
    """Section 7.1 of the plan becomes bounds of the telemetry."""
    settings = load_config(yaml.safe_load(PLAN + PLAN_METRICS))
    assert settings.telemetry == TelemetrySettings(
        bounds={
            "redis_queue_depth": MetricBounds(type="gauge", threshold=1000.0),
            "redis_operation_latency": MetricBounds(type="histogram", buckets=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0)),
            "redis_error_rate": MetricBounds(type="counter", alert_threshold=0.01),
        }
    )


def test_telemetry_is_one_section_beside_the_metrics() -> None:
    """Keys of both end in the same settings; a variable may say true."""
    config = yaml.safe_load(PLAN + PLAN_METRICS)
    config["queue"]["telemetry"] = {"endpoint": "http://collector:4317", "protocol": "grpc", "interval": 5}
    telemetry = load_config(config).telemetry
    assert (telemetry.endpoint, telemetry.protocol, telemetry.interval) == ("http://collector:4317", "grpc", 5.0)
    assert set(telemetry.bounds) == {"redis_queue_depth", "redis_operation_latency", "redis_error_rate"}

    environ = {"STREAMS_QUEUE_TELEMETRY__ENABLED": "true", "STREAMS_QUEUE_TELEMETRY__SAMPLING_RATIO": "0.5"}
    telemetry = load_config(environ={"STREAMS_QUEUE_REDIS_URL": "redis://h", **environ}).telemetry
    assert (telemetry.enabled, telemetry.sampling_ratio) == (True, 0.5)


@pytest.mark.parametrize(
    ("telemetry", "problem"),
    [
        ({"endpiont": "http://h"}, "queue.telemetry.endpiont: unknown key; did you mean endpoint?"),
        ({"enabled": "yes"}, "queue.telemetry.enabled: enabled must be true or false"),
        ({"enabled": 1}, "queue.telemetry.enabled: enabled must be true or false"),
        ({"protocol": "grcp"}, "queue.telemetry.protocol: protocol must be one of grpc, http; did you mean grpc?"),
        ({"interval": 0}, "queue.telemetry.interval: interval must be at least 0.1"),
        ({"timeout": "5"}, "queue.telemetry.timeout: timeout must be a number"),
        ({"sampling_ratio": 2}, "queue.telemetry.sampling_ratio: sampling_ratio must be at most 1"),
        ({"service_name": ""}, "queue.telemetry.service_name: service_name must be 1 to 255 printable characters"),
        *(
            ({"endpoint": url}, "queue.telemetry.endpoint: endpoint must be a URL such as http://localhost:4317")
            for url in ("collector:4317", "grpc://h:4317", "http://", "http://h:99999", "http://h:0", "http://[::1")
        ),
        (
            {"endpoint": "http://user:hunter2@h"},
            (
                "queue.telemetry.endpoint: endpoint must hold nothing but scheme, host, port and path; "
                "see OTEL_EXPORTER_OTLP_HEADERS"
            ),
        ),
    ],
)
def test_what_is_wrong_with_the_telemetry_is_told(telemetry: dict[str, Any], problem: str) -> None:
    """By path, rule and suggestion, as everywhere, and never with the value."""
    assert problems_of(queue_config(telemetry=telemetry)) == [problem]


def test_seconds_are_floats_whatever_was_written() -> None:
    """An int is taken for seconds, and becomes a float."""
    settings = load_config(queue_config(timeout=30, lease=2))
    assert [type(settings.timeout), type(settings.lease)] == [float, float]


def test_settings_are_returned_as_they_are() -> None:
    """Loaded settings may be passed wherever a configuration is expected."""
    settings = Settings(redis_url="redis://h", max_size=1, timeout=1.0)
    assert load_config(settings, require=FACTORY_REQUIRES) is settings


def test_null_means_the_default() -> None:
    """A key whose value is null, such as a section with all lines commented out, counts as not given."""
    settings = load_config(queue_config(retry_policy=None, lease=None, fallback=None))
    assert (settings.retry_policy, settings.lease, settings.fallback) == (RetryPolicy(), 15.0, FallbackSettings())


def test_foreign_sections_are_ignored_and_their_variables_left_alone() -> None:
    """GitBridge's own file loads: only `queue`, `environments` and a `metrics` list are looked at."""
    foreign = {"github": {"token": "${GITHUB_TOKEN}"}, "metrics": {"enabled": "${NOPE}"}, "processors": [1, None]}
    assert load_config({**foreign, **queue_config()}, environ={}) == load_config(queue_config())


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [{}, {"queue": None}, {"github": {}}])
def test_a_missing_queue_section_is_named(source: dict[str, Any]) -> None:
    """Without a queue section there is exactly one problem to report."""
    assert problems_of(source, require=FACTORY_REQUIRES) == ["queue: Missing queue configuration"]


def test_missing_fields_are_listed_in_the_plans_order() -> None:
    """All missing fields come in one sentence, whatever the order of the file."""
    assert problems_of({"queue": {"redis_url": "redis://h"}}, require=FACTORY_REQUIRES) == [
        "queue: Missing required fields: type, max_size, timeout, retry_policy"
    ]
    assert problems_of({"queue": {}}) == ["queue: Missing required fields: max_size, timeout"]


@pytest.mark.parametrize("queue_type", ["redis", "resilient"])
def test_a_missing_redis_url_is_named_where_a_redis_is_used(queue_type: str) -> None:
    """The factory asks for redis_url only if the type uses a server."""
    config = queue_config(type=queue_type, redis_url=None)
    assert problems_of(config, require=FACTORY_REQUIRES) == ["queue.redis_url: Missing redis_url"]
    assert load_config(queue_config(type="asyncio", redis_url=None), require=FACTORY_REQUIRES).redis_url is None


def test_a_redis_queue_built_directly_needs_its_url_whatever_the_type_says() -> None:
    """A class built directly ignores `type`, from a mapping and from settings alike."""
    expected = ["queue.redis_url: Missing redis_url"]
    assert problems_of(queue_config(type="asyncio", redis_url=None), require=REDIS_REQUIRES) == expected
    assert problems_of(Settings(type="asyncio", max_size=1, timeout=1.0), require=REDIS_REQUIRES) == expected


def test_all_problems_are_reported_at_once_with_their_paths() -> None:
    """One run tells everything that is to be mended."""
    config = queue_config(
        type="reddis",
        max_size=-1,
        timeout=0,
        retry_policy={"max_retrys": 1, "base_delay": -1},
        max_sise=3,
        dead_letter={"when_full": "dropp"},
    )
    assert problems_of({**config, "metrics": [{"name": "x", "type": "gage"}]}) == [
        "queue.type: type must be one of redis, asyncio, resilient, rollout; did you mean redis?",
        "queue.max_size: max_size must be non-negative",
        "queue.timeout: timeout must be greater than 0",
        "queue.retry_policy.max_retrys: unknown key; did you mean max_retries?",
        "queue.retry_policy.base_delay: base_delay must be at least 0",
        "queue.max_sise: unknown key; did you mean max_size?",
        "queue.dead_letter.when_full: when_full must be one of refuse, drop; did you mean drop?",
        "metrics[0].type: type must be one of gauge, histogram, counter; did you mean gauge?",
    ]


@pytest.mark.parametrize("value", ["10", 1.0, True, [], math.nan, math.inf])
def test_max_size_must_be_an_integer(value: object) -> None:
    """Neither text nor a float nor a bool is a count."""
    assert problems_of(queue_config(max_size=value)) == ["queue.max_size: max_size must be an integer"]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("timeout", math.nan, "timeout must be finite"),
        ("timeout", math.inf, "timeout must be finite"),
        ("timeout", True, "timeout must be a number"),
        ("timeout", 10**400, "timeout must be at most 3155760000"),
        ("max_size", 2**53, "max_size must be at most 9007199254740991"),
        ("enqueue_timeout", 0, "enqueue_timeout must be greater than 0"),
        ("namespace", "git bridge", "namespace must be 1 to 64 letters, digits, dots, underscores or dashes"),
        ("name", "x" * 65, "name must be 1 to 64 letters, digits, dots, underscores or dashes"),
        ("name", "a{b}", "name must be 1 to 64 letters, digits, dots, underscores or dashes"),
        ("name", "events\n", "name must be 1 to 64 letters, digits, dots, underscores or dashes"),
        ("name", 7, "name must be a string"),
        ("group", "", "group must not be empty or hold spaces"),
        ("group", "a b", "group must not be empty or hold spaces"),
        ("overflow", "drop", "overflow must be one of reject, block, drop_oldest"),
        ("lease", 0.05, "lease must be at least 0.1"),
        ("handler_timeout", 0, "handler_timeout must be greater than 0"),
        ("prefetch", "many", "prefetch must be auto or an integer of at least 0"),
        ("prefetch", -1, "prefetch must be auto or an integer of at least 0"),
        ("max_event_bytes", 0, "max_event_bytes must be at least 1"),
        ("retry_policy", [], "retry_policy must be a mapping, not a list"),
    ],
)
def test_each_key_is_held_to_its_rule(key: str, value: object, problem: str) -> None:
    """A value of the wrong kind or out of range is refused with the rule."""
    assert problems_of(queue_config(**{key: value})) == [f"queue.{key}: {problem}"]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (queue_config(lease=10, max_lease=5), "queue.max_lease: max_lease must be at least lease"),
        (queue_config(lease=7200), "queue.max_lease: max_lease must be at least lease"),
        (
            queue_config(retry_policy={"base_delay": 10, "max_delay": 5}),
            "queue.retry_policy.max_delay: max_delay must be at least base_delay",
        ),
    ],
)
def test_values_must_fit_together(config: dict[str, Any], problem: str) -> None:
    """What is right by itself may be wrong beside another value, or beside a default."""
    assert problems_of(config) == [problem]


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%40ss@localhost:6379/0",
        "redis://[::1]:6379/1?protocol=3",
        "rediss://user:word@example.org:6380",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://:word@one:26379,two:26379/mymaster/0",
        "rediss+sentinel://one,[::1]:26380/mymaster?sentinel_password=word",
    ],
)
def test_urls_of_every_supported_kind_are_taken(url: str) -> None:
    """One server with and without TLS, a socket and a set of sentinels can be named."""
    assert load_config(queue_config(redis_url=url)).redis_url == url


SCHEMES = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:6379", f"must begin with one of {SCHEMES}"),
        ("http://h", f"must begin with one of {SCHEMES}"),
        ("reddis://h", f"must begin with one of {SCHEMES}; did you mean redis?"),
        ("redis+cluster://h:6379", "names a cluster, which is not supported yet"),
        ("redis://", "must say where the server is"),
        ("redis://h:port/0", "must hold a valid host and port"),
        ("redis://a:6379,b:6379/0", "must name one server"),
        ("redis://h:6379/events", "must end in the number of a database"),
        ("unix://redis.sock", "must hold the absolute path of a socket"),
        ("unix://host", "must hold the absolute path of a socket"),
        ("redis+sentinel://a:26379,b:26379", "must name the service"),
        ("redis+sentinel://a:26379/0/mymaster", "must end in the number of a database"),
        ("redis+sentinel://a:26379,/mymaster", "must list the sentinels"),
        ("redis+sentinel://a:66379/mymaster", "must list the sentinels"),
        ("redis+sentinel://:pa/ss@a:26379/mymaster", "must"),
        ("redis+sentinel://u:1/2@a:26379/mymaster", "must"),
        ("redis://h:6379/0\n", "must not hold spaces"),
        (6379, "must be a string"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: object, problem: str) -> None:
    """The message says what is wrong with the URL, and does not repeat it."""
    (found,) = problems_of(queue_config(redis_url=url))
    assert found.startswith(f"queue.redis_url: redis_url {problem}")
    assert str(url) not in found


def test_bad_metrics_are_reported_with_their_place_in_the_list() -> None:
    """Each entry of the list is validated by itself."""
    metrics = [
        7,
        {"name": "a"},
        {"name": "b", "type": "histogram", "buckets": [2, 1]},
        {"name": "c", "type": "counter", "alert_threshold": "101%", "treshold": 1},
        {"name": "d", "type": "gauge"},
        {"name": "d", "type": "gauge"},
    ]
    assert problems_of({**queue_config(), "metrics": metrics}) == [
        "metrics[0]: must be a mapping, not int",
        "metrics[1]: Missing required fields: type",
        "metrics[2].buckets: buckets must be a list of ascending numbers of at least 0",
        "metrics[3].alert_threshold: alert_threshold must be a percentage such as 1%, or a number from 0 to 1",
        "metrics[3].treshold: unknown key; did you mean threshold?",
        "metrics[5].name: name is used by an earlier entry",
    ]


# --- variables ---------------------------------------------------------------------------------------------------


def test_variables_are_expanded_inside_the_queue_section() -> None:
    """A variable may be a part of a string, a whole number, or have a default."""
    config = queue_config(
        redis_url="redis://:${PASSWORD}@${HOST:-localhost}:6379/0",
        max_size="${SIZE}",
        retry_policy={"base_delay": "${DELAY:-0.5}"},
        name="${NAME}",
    )
    settings = load_config(config, environ={"PASSWORD": "hunter2", "SIZE": "12", "NAME": "42"})
    assert settings.redis_url == "redis://:hunter2@localhost:6379/0"
    assert (settings.max_size, settings.retry_policy.base_delay, settings.name) == (12, 0.5, "42")


def test_a_variable_that_is_not_set_is_named() -> None:
    """Each unset variable is one problem, and no other follows from it."""
    config = queue_config(redis_url="redis://:${PASSWORD}@${HOST}", retry_policy={"max_retries": "${RETRIES}"})
    assert problems_of(config, require=FACTORY_REQUIRES) == [
        "queue.redis_url: environment variable PASSWORD is not set",
        "queue.redis_url: environment variable HOST is not set",
        "queue.retry_policy.max_retries: environment variable RETRIES is not set",
    ]


def test_a_variable_set_to_nothing_counts_as_not_given() -> None:
    """An empty variable is how a shell says that there is no value."""
    config = queue_config(redis_url="${URL}", handler_timeout="${LIMIT:-}")
    assert problems_of(config, environ={"URL": ""}, require=REDIS_REQUIRES) == ["queue.redis_url: Missing redis_url"]


def test_an_expanded_value_is_not_repeated_in_an_error() -> None:
    """The variable is named, its value is not: it may be a secret."""
    found = problems_of(queue_config(max_size="${SIZE}"), environ={"SIZE": "hunter2"})
    assert found == ["queue.max_size: max_size must be an integer (from SIZE)"]


def test_the_environment_alone_can_configure_a_queue() -> None:
    """With nothing but a URL, the factory has all it needs; single keys are set by their path."""
    settings = load_config(
        environ={
            "STREAMS_QUEUE_REDIS_URL": "redis://h",
            "STREAMS_QUEUE_RETRY_POLICY__MAX_RETRIES": "7",
            "STREAMS_QUEUE_LEASE": "2.5",
            "STREAMS_QUEUE_PREFETCH": "auto",
            "STREAMS_QUEUE_HANDLER_TIMEOUT": "",
        },
        require=FACTORY_REQUIRES,
    )
    assert settings == Settings(
        redis_url="redis://h", max_size=10_000, timeout=30.0, retry_policy=RetryPolicy(max_retries=7), lease=2.5
    )


def test_a_misspelt_variable_is_reported_and_a_foreign_one_is_not() -> None:
    """Kubernetes sets STREAMS_QUEUE_PORT for a service of that name; STREAMS_QUEUE_MAXSIZE is a slip."""
    environ = {
        "STREAMS_QUEUE_MAXSIZE": "5",
        "STREAMS_QUEUE_PORT": "tcp://10.0.0.1:80",
        "STREAMS_QUEUE_TEST_SERVER": "redis-6.2",
        "STREAMS_QUEUE_TIMEOUT": "soon",
    }
    assert problems_of(None, environ=environ) == [
        "STREAMS_QUEUE_MAXSIZE: unknown variable; did you mean STREAMS_QUEUE_MAX_SIZE?",
        "queue.timeout: timeout must be a number (from STREAMS_QUEUE_TIMEOUT)",
    ]


def test_variables_override_the_file_that_the_environment_names(tmp_path: Path) -> None:
    """STREAMS_QUEUE_CONFIG names the file; a single key can still be set beside it."""
    path = tmp_path / "webhook_config.yaml"
    path.write_text(PLAN)
    environ = {"STREAMS_QUEUE_CONFIG": str(path), "STREAMS_QUEUE_RETRY_POLICY__BASE_DELAY": "2"}
    settings = load_config(environ=environ, require=FACTORY_REQUIRES)
    assert settings.retry_policy == RetryPolicy(max_retries=3, base_delay=2.0)


# --- environments ------------------------------------------------------------------------------------------------

ENVIRONMENTS = {
    "environments": {
        "production": {"queue": {"max_size": 5, "retry_policy": {"max_retries": 9}}},
        "staging": {"github": {}},
        "broken": {"queue": 7},
    }
}


def test_an_environment_overrides_the_queue_section_key_by_key() -> None:
    """What the environment does not name stays as it was, inside sections too."""
    config = {**queue_config(retry_policy={"max_retries": 1, "base_delay": 4}), **ENVIRONMENTS}
    assert load_config(config).max_size == 10_000
    settings = load_config(config, environment="production")
    assert (settings.max_size, settings.retry_policy) == (5, RetryPolicy(max_retries=9, base_delay=4.0))
    assert load_config(config, environment="staging") == load_config(config)


def test_an_unknown_environment_is_an_error_that_lists_the_known() -> None:
    """A slip in the name must not silently run on the defaults."""
    assert problems_of({**queue_config(), **ENVIRONMENTS}, environment="prod") == [
        "environments: unknown environment 'prod'; known: production, staging, broken"
    ]
    assert problems_of({**queue_config(), **ENVIRONMENTS}, environment="broken") == [
        "environments.broken.queue: must be a mapping"
    ]


def test_the_environments_name_may_come_from_a_variable(tmp_path: Path) -> None:
    """STREAMS_QUEUE_ENVIRONMENT counts for files; a mapping is taken as it was given."""
    path = tmp_path / "webhook_config.yaml"
    path.write_text(yaml.safe_dump({**queue_config(), **ENVIRONMENTS}))
    environ = {"STREAMS_QUEUE_ENVIRONMENT": "production"}
    assert load_config(path, environ=environ).max_size == 5
    assert load_config(queue_config(), environ=environ).max_size == 10_000


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n- b\n", ":1: must hold a mapping, not a list"),
        ("queue:\n  max_size: [1\n", ":3: is not valid YAML: expected …"),
        ("queue:\n  redis_url: *hunter2\n", ":2: is not valid YAML: found undefined alias …"),
        ("queue: !!bool hunter2\n", ": is not valid YAML (KeyError)"),
        ("queue: " + "[" * 5000, ": is not valid YAML (RecursionError)"),
        ("queue: \x00", ": is not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_reported_by_file_and_line(tmp_path: Path, text: str, problem: str) -> None:
    """YAML's own errors arrive as ConfigErrors, without what they quote."""
    path = tmp_path / "queue.yaml"
    path.write_text(text)
    (found,) = problems_of(path)
    assert found.startswith(f"{path}{problem}")
    assert "hunter2" not in found


def test_an_empty_file_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    """One holds no queue section, the other cannot be read."""
    empty = tmp_path / "empty.yaml"
    empty.touch()
    assert problems_of(empty) == ["queue: Missing queue configuration"]
    missing = tmp_path / "missing.yaml"
    assert problems_of(str(missing)) == [f"{missing}: cannot be read: No such file or directory"]


def test_a_url_in_place_of_a_path_is_refused_without_repeating_it() -> None:
    """Who passes the URL by mistake does not find the password in the log."""
    (found,) = problems_of("redis://:hunter2@localhost")
    assert "not a URL" in found
    assert "hunter2" not in found


# --- the example file --------------------------------------------------------------------------------------------


def test_the_example_file_loads() -> None:
    """The file that everyone copies is complete for the factory, and says what the plan says."""
    assert load_config(EXAMPLE, environ={}, require=FACTORY_REQUIRES) == load_config(
        yaml.safe_load(PLAN + PLAN_METRICS), require=FACTORY_REQUIRES
    )


def test_the_example_file_names_every_key_with_its_default() -> None:
    """With all comments taken off the optional keys, every key is there and nothing has changed."""
    text = re.sub(r"(?m)^( {2,4})# ( *[a-z_]+:)", r"\1\2", EXAMPLE.read_text())
    section = yaml.safe_load(text)["queue"]
    assert set(section) == {field.name for field in dataclasses.fields(Settings)}
    for key, kind in (("retry_policy", RetryPolicy), ("fallback", FallbackSettings)):
        assert set(section[key]) == {field.name for field in dataclasses.fields(kind)}
    assert set(section["dead_letter"]) == {"max_size", "when_full"}
    assert load_config({"queue": section}, require=FACTORY_REQUIRES) == load_config(yaml.safe_load(PLAN))


def test_compression_is_off_unless_asked_for() -> None:
    """A section that says nothing more takes the defaults; a variable of the environment may switch it on or off."""
    assert load_config(queue_config()).compression is None
    assert load_config(queue_config(compression=None)).compression is None
    assert load_config(queue_config(compression={})).compression == CompressionSettings(
        type="zstd", min_bytes=2048, level=1
    )
    environ = {"STREAMS_QUEUE_COMPRESSION__TYPE": "none", "STREAMS_QUEUE_COMPRESSION__LEVEL": "3"}
    assert load_config(None, environ=environ).compression == CompressionSettings(type="none", level=3)


@pytest.mark.parametrize(
    ("compression", "problem"),
    [
        ("zstd", "queue.compression: compression must be a mapping, not a string"),
        ({"type": "zstdd"}, "queue.compression.type: type must be one of none, zstd; did you mean zstd?"),
        ({"level": 20}, "queue.compression.level: level must be at most 19"),
        ({"level": 0}, "queue.compression.level: level must be at least 1"),
        ({"min_bytes": -1}, "queue.compression.min_bytes: min_bytes must be non-negative"),
        ({"min_byte": 1}, "queue.compression.min_byte: unknown key; did you mean min_bytes?"),
    ],
)
def test_what_is_wrong_with_compression_is_told_by_its_path(compression: Any, problem: str) -> None:
    """With the rule, and a suggestion where one is close."""
    with pytest.raises(ConfigError) as raised:
        load_config(queue_config(compression=compression))
    assert raised.value.problems == (problem,)


# --- secrets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:hunter2@h:6379/0", "redis://***@h:6379/0"),
        ("redis://:hunter2@h", "redis://***@h"),
        ("redis://hunter2@h", "redis://***@h"),
        ("redis://user%3Ahunter2@h", "redis://***@h"),
        ("redis://h/0?password=hunter2&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0?pass%77ord=hunter2", "redis://h/0?pass%77ord=***"),
        ("redis://:hun/ter2@h", "redis://***@h"),
        ("redis://:hun?ter2@h", "redis://***"),
        ("redis://h?password=hun@ter2", "redis://***"),
        ("redis://:hun#ter2@h", "redis://***@h"),
        ("unix://:hunter2@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("redis+sentinel://u:hunter2@a:1,b:2/main/0", "redis+sentinel://***@a:1,b:2/main/0"),
        (":hunter2@h", "***"),
        ("", ""),
    ],
)
def test_redacted_urls_keep_what_is_no_secret(url: str, shown: str) -> None:
    """Host, port and database stay readable; user and password go, wherever they are written."""
    assert redact_url(url) == shown


def test_the_repr_of_settings_hides_the_password() -> None:
    """Settings end up in logs and tracebacks."""
    shown = repr(Settings(redis_url="redis://user:hunter2@h", max_size=1, timeout=1.0))
    assert "redis_url='redis://***@h'" in shown
    assert "hunter2" not in shown


SECRET = "Zq7" + "xK9wLm"
awkward = st.text(st.characters(codec="utf-8", exclude_characters="Zq7"), max_size=3)
passwords = st.builds(lambda before, after: f"{before}{SECRET}{after}", awkward, awkward)
url_forms = st.sampled_from(
    [
        "redis://:{}@localhost:6379/0",
        "rediss://user:{}@h",
        "redis://{}@h",
        "redis://h/0?password={}",
        "redis://h:port/0?db=1&password={}",
        "unix://:{}@/run/redis.sock",
        "redis+sentinel://:{}@a:1,b:2/main",
        "redis+cluster://:{}@h",
        "reddis://:{}@h",
        ":{}@h",
    ]
)


@given(form=url_forms, password=passwords, key=st.sampled_from(["redis_url", "name", "max_size", "type", "fallback"]))
def test_no_secret_is_shown_whatever_it_is_written_like(form: str, password: str, key: str) -> None:
    """Neither the error nor the repr holds the password, however oddly it is spelt or misplaced."""
    url = form.format(password)
    for source, environ in ((queue_config(**{key: url}), {}), (queue_config(**{key: "${URL}"}), {"URL": url})):
        try:
            shown = repr(load_config(source, environ=environ))
        except ConfigError as error:
            shown = f"{error}{error!r}{error.problems}"
        assert SECRET not in shown
    assert SECRET not in redact_url(url)


def load(source: Any, **options: Any) -> tuple[Settings | None, tuple[str, ...]]:
    """Return the settings, or what is wrong with them; any other error passes through."""
    try:
        return load_config(source, **options), ()
    except ConfigError as error:
        return None, error.problems


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=4)
keys = scalars | st.sampled_from(
    [
        "queue",
        "max_size",
        "timeout",
        "type",
        "redis_url",
        "retry_policy",
        "lease",
        "metrics",
        "name",
        "environments",
        "prod",
    ]
)
garbage = st.recursive(
    scalars | st.sampled_from(["redis", "${HOME}", "${NOPE}", "redis://h", "1%"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


@given(queue=garbage, metrics=garbage, environments=garbage, environment=st.sampled_from([None, "prod"]))
def test_garbage_is_a_config_error_and_nothing_else(
    queue: Any, metrics: Any, environments: Any, environment: str | None
) -> None:
    """Whatever a file may hold, loading it ends in settings or in a list of problems."""
    source = {"queue": queue, "metrics": metrics, "environments": environments}
    settings, problems = load(source, environment=environment, environ={"HOME": "/root"}, require=FACTORY_REQUIRES)
    assert settings.max_size >= 0 if settings else problems


@given(
    queue=st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Settings)]), garbage, max_size=8),
)
def test_garbage_behind_known_keys_is_a_config_error_and_nothing_else(queue: dict[str, Any]) -> None:
    """The same with keys that are all known, so that every reader meets every kind of value."""
    source = {"queue": {"max_size": 1, "timeout": 1, **queue}}
    settings, problems = load(source, environ={})
    assert math.isfinite(settings.timeout) if settings else problems


def test_a_file_that_refers_to_itself_is_refused(tmp_path: Path) -> None:
    """YAML's anchors can tie a knot; it is an unknown key like any other."""
    path = tmp_path / "knot.yaml"
    path.write_text("queue: &q\n  max_size: 1\n  timeout: 1\n  fallback: *q\n  knot: *q\n")
    assert "queue.knot: unknown key" in problems_of(path)


# --- what is strange ---------------------------------------------------------------------------------------------


def test_a_few_lines_of_merges_do_not_mean_billions_of_keys(tmp_path: Path) -> None:
    """Nine lines that each merge the one before ten times over are refused, not carried out."""
    path = tmp_path / "bomb.yaml"
    lines = [f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 10)}], x{n}: 1}}" for n in range(1, 10)]
    path.write_text("\n".join(["k0: &k0 {a: 1}", *lines, "queue: *k9"]))

    (problem,) = problems_of(path)

    assert problem == f"{path}:5: is not valid YAML: merging makes more than 10000 keys"


@pytest.mark.parametrize(
    "key",
    ["redis://:hunter2@h", "hunter2 with spaces", "a\nb", "\ud800", "x" * 65, 1 << 20_000, (1, "hunter2"), b"hunter2"],
    ids=range(8),
)
def test_a_key_that_is_no_name_is_not_repeated(key: Any) -> None:
    """It may be a value that slipped; and not all of them can be printed."""
    (problem,) = problems_of({"queue": {**queue_config()["queue"], key: 1}})
    assert re.fullmatch(r"queue\.\((not a name|int|tuple|bytes)\): unknown key", problem)


def test_what_was_read_does_not_hang_on_the_error(tmp_path: Path) -> None:
    """PyYAML's own errors quote the file; neither cause nor context of ours leads to them."""
    path = tmp_path / "config.yaml"
    path.write_text("queue: {redis_url: !!int hunter2}")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_text_that_utf_8_cannot_carry_is_refused() -> None:
    """A lone surrogate could not be sent to a server."""
    expected = "must be text that UTF-8 can carry"
    assert problems_of(queue_config(group="a\ud800")) == [f"queue.group: group {expected}"]
    assert problems_of(queue_config(redis_url="redis://:\ud800@h")) == [f"queue.redis_url: redis_url {expected}"]


def test_a_default_may_hold_a_dollar_and_no_variable() -> None:
    """A value that is nothing but beginnings of variables is read once, not once from each of them."""
    config = queue_config(group="${GROUP:-a$b$}", name="events")
    assert load_config(config, environ={}).group == "a$b$"
    began = time.monotonic()
    assert load_config(queue_config(group="${A:-" * 100_000), environ={}).group == "${A:-" * 100_000
    assert time.monotonic() - began < 5.0


# --- a rollout ---------------------------------------------------------------------------------------------------

ROLLOUT_EXAMPLE = EXAMPLE.parent / "rollout.yaml"


def rollout(**section: Any) -> dict[str, Any]:
    """Return a configuration with a rollout."""
    return queue_config(type="rollout", redis_url="redis://:hunter2@localhost", rollout=section)


def test_the_example_of_a_rollout_loads() -> None:
    """It says what the guide says."""
    settings = load_config(ROLLOUT_EXAMPLE, environ={}, require=FACTORY_REQUIRES)
    assert settings.rollout is not None
    assert (settings.type, settings.rollout.percentage) == ("rollout", 1)
    assert settings.rollout.key == ("repository.full_name", "repo", "payload.repository.full_name")
    assert (settings.rollout.old.type, settings.rollout.new.type) == ("asyncio", "redis")


def test_each_queue_of_a_rollout_has_its_own_keys_and_the_rest_from_both() -> None:
    """Also inside sections; neither has a rollout of its own, and no password is shown."""
    config = rollout(
        percentage=12.5, key="repo", old={"retry_policy": {"max_retries": 9}}, new={"type": "resilient", "name": "v2"}
    )
    settings = load_config(config, require=FACTORY_REQUIRES)
    assert settings.rollout is not None
    old, new = settings.rollout.old, settings.rollout.new
    assert (old.type, old.name, old.retry_policy.max_retries) == ("redis", "events", 9)
    assert old.retry_policy.base_delay == new.retry_policy.base_delay == settings.retry_policy.base_delay
    assert (new.type, new.name, new.retry_policy.max_retries) == ("resilient", "v2", settings.retry_policy.max_retries)
    assert (old.rollout, new.rollout, settings.rollout.key) == (None, None, ("repo",))
    assert "hunter2" not in repr(settings)


def test_variables_and_environments_reach_into_a_rollout() -> None:
    """The share is what changes most often."""
    config = rollout(percentage="${SHARE}", old={}, new={"name": "${NEW:-v2}"})
    config["environments"] = {"test": {"queue": {"rollout": {"new": {"max_size": 7}}}}}
    settings = load_config(config, environment="test", environ={"SHARE": "3"}, require=FACTORY_REQUIRES)
    assert settings.rollout is not None
    assert (settings.rollout.percentage, settings.rollout.new.name, settings.rollout.new.max_size) == (3, "v2", 7)
    assert settings.rollout.old.max_size == settings.max_size

    environ = {"STREAMS_QUEUE_CONFIG": str(ROLLOUT_EXAMPLE), "STREAMS_QUEUE_ROLLOUT__PERCENTAGE": "50"}
    overridden = load_config(None, environ=environ, require=FACTORY_REQUIRES)
    assert overridden.rollout is not None
    assert (overridden.rollout.percentage, overridden.rollout.old.type) == (50, "asyncio")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"old": {}, "new": {"name": "v2"}}, "queue.rollout: Missing required fields: percentage"),
        ({"percentage": 1, "old": {}}, "queue.rollout: Missing required fields: new"),
        ({"percentage": 1, "old": {}, "new": {}}, "queue.rollout.new: new must not be the queue that old is"),
        (
            {"percentage": 1, "old": {}, "new": {"type": "resilient"}},
            "queue.rollout.new: new must not be the queue that old is",
        ),
        (
            {"percentage": 101, "old": {}, "new": {"name": "v2"}},
            "queue.rollout.percentage: percentage must be at most 100",
        ),
        (
            {"percentage": 1, "old": {"type": "rollout"}, "new": {}},
            "queue.rollout.old.type: type must be one of redis, asyncio, resilient",
        ),
        (
            {"percentage": 1, "old": {"telemetry": {}}, "new": {"name": "v2"}},
            "queue.rollout.old.telemetry: unknown key",
        ),
        (
            {"percentage": 1, "key": ["repo..name"], "old": {}, "new": {"name": "v2"}},
            "queue.rollout.key: key must be a path such as repository.full_name, or a list of them",
        ),
        (
            {"percentage": 1, "old": {}, "new": {"name": "v2", "max_lease": 1}},
            "queue.rollout.new.max_lease: max_lease must be at least lease",
        ),
        ("redis", "queue.rollout: rollout must be a mapping, not a string"),
        (None, "queue: Missing required fields: rollout"),
    ],
)
def test_what_makes_no_rollout_is_reported(section: Any, problem: str) -> None:
    """By path, as everywhere."""
    config = rollout()
    config["queue"]["rollout"] = section
    found = problems_of(config, require=FACTORY_REQUIRES)
    assert any(each.startswith(problem) for each in found), found


def test_a_rollout_needs_a_url_only_where_a_server_is_used() -> None:
    """Not for the asyncio queue that it begins with."""
    config = rollout(percentage=1, old={"type": "asyncio"}, new={})
    del config["queue"]["redis_url"]
    assert problems_of(config, require=FACTORY_REQUIRES) == ["queue.rollout.new.redis_url: Missing redis_url"]
    config["queue"]["rollout"]["new"]["redis_url"] = "redis://localhost"
    settings = load_config(config, require=FACTORY_REQUIRES)
    assert settings.redis_url is None
