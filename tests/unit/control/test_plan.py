"""The difference between what should run and what does."""

from collections.abc import Callable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.plan import Action, Remove, Replace, Start, Update, changes, plan
from orchestrator.model.names import RoleName
from orchestrator.model.workload import WorkloadSpec

MakeSpec = Callable[..., WorkloadSpec]
Specs = Mapping[RoleName, WorkloadSpec]

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
FIELDS = st.fixed_dictionaries(
    {
        "server": st.sampled_from(["shop", "bank"]),
        "mode": st.sampled_from(["agent", "owner"]),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"])),
        "policy": st.sampled_from(
            [{}, {"limits": {"concurrency": 1}}, {"asks": ("roots",)}, {"resources": "all"}]
        ),
        "rotation": st.sampled_from([{}, {"upstream": {"issuer": "shop"}}]),
        "credential": st.sampled_from(["", "v1"]),
        "generation": st.integers(1, 5),
    }
)


Drawn = Mapping[str, Mapping[str, object]]
PROJECTS = st.dictionaries(NAMES, FIELDS)


def specs(make_spec: MakeSpec, drawn: Drawn) -> dict[RoleName, WorkloadSpec]:
    """Make what a project runs."""
    return {RoleName(name): make_spec(**{**more, "role": name}) for name, more in drawn.items()}


def apply(current: Specs, actions: tuple[Action, ...]) -> dict[RoleName, WorkloadSpec]:
    """Do what a plan says, with new generations, as the control plane gives them."""
    after = dict(current)
    for action in actions:
        match action:
            case Start(role, spec) | Replace(role, spec, _):
                generation = after[role].generation + 1 if role in after else 1
                after[role] = spec.model_copy(update={"generation": generation})
            case Update(role, spec):
                news = {"policy": spec.policy, "rotation": spec.rotation}
                after[role] = after[role].model_copy(update=news)
            case Remove(role):
                del after[role]
    return after


@given(wanted=PROJECTS, runs=PROJECTS)
def test_a_plan_reaches_its_end(make_spec: MakeSpec, wanted: Drawn, runs: Drawn) -> None:
    """A plan that was carried out leaves what was wanted, and nothing more to plan."""
    desired, current = specs(make_spec, wanted), specs(make_spec, runs)
    after = apply(current, plan(desired, current))
    assert after.keys() == desired.keys()
    assert all(changes(after[role], spec) == () for role, spec in desired.items())
    assert plan(desired, after) == ()


@given(wanted=PROJECTS, runs=PROJECTS)
def test_removals_come_last_and_all_goes_by_name(
    make_spec: MakeSpec, wanted: Drawn, runs: Drawn
) -> None:
    """Nothing is taken away before everything else is there; the order is always the same."""
    actions = plan(specs(make_spec, wanted), specs(make_spec, runs))
    kinds = [isinstance(action, Remove) for action in actions]
    assert kinds == sorted(kinds)
    for removal in (False, True):
        names = [action.role for action in actions if isinstance(action, Remove) is removal]
        assert names == sorted(set(names))


@given(runs=PROJECTS)
def test_only_the_generation_changes_nothing(make_spec: MakeSpec, runs: Drawn) -> None:
    """A spec that differs in its generation alone is the one that runs."""
    current = specs(make_spec, runs)
    later = {role: spec.model_copy(update={"generation": 99}) for role, spec in current.items()}
    assert plan(later, current) == ()


def test_changes_are_named(make_spec: MakeSpec) -> None:
    """A replacement tells which fields differ, in the model's order."""
    old = make_spec(generation=7)
    new = make_spec(env={"PATH": "/bin"}, mode="owner", bands=("look",))
    assert changes(old, new) == ("bands", "mode", "env")
    reader = RoleName("reader")
    assert plan({reader: new}, {reader: old}) == (Replace(reader, new, ("bands", "mode", "env")),)


def test_a_policy_alone_needs_no_other_process(make_spec: MakeSpec) -> None:
    """What calls may do is updated; what the server may ask needs a process that was told."""
    reader, old = RoleName("reader"), make_spec(generation=7)
    strict = make_spec(policy={"limits": {"calls_per_minute": 5}})
    asking = make_spec(policy={"limits": {"calls_per_minute": 5}, "asks": ("roots",)})
    moved = make_spec(policy={"prompts": "all"}, directory="/")
    assert plan({reader: strict}, {reader: old}) == (Update(reader, strict),)
    assert plan({reader: asking}, {reader: strict}) == (Replace(reader, asking, ("asks",)),)
    assert changes(old, asking) == ("asks", "policy")
    assert changes(old, moved) == ("directory", "policy")
    assert plan({reader: moved}, {reader: old})[0].verb == "replace"


def test_how_credentials_are_replaced_needs_no_other_process(make_spec: MakeSpec) -> None:
    """Rules of rotation are updated, alone and beside a policy; the version is control's own."""
    reader, old = RoleName("reader"), make_spec(generation=7, credential="v1")
    rotation = {"upstream": {"issuer": "shop"}}
    rotated = make_spec(rotation=rotation)
    both = make_spec(rotation=rotation, policy={"limits": {"calls_per_minute": 5}})
    moved = make_spec(rotation=rotation, directory="/")
    assert plan({reader: make_spec()}, {reader: old}) == ()
    assert plan({reader: rotated}, {reader: old}) == (Update(reader, rotated, ("rotation",)),)
    assert plan({reader: both}, {reader: old}) == (Update(reader, both, ("rotation", "policy")),)
    assert plan({reader: moved}, {reader: old})[0].verb == "replace"


def test_which_process_it_is_does_not_count(make_spec: MakeSpec) -> None:
    """The spec of a lane is that of its generation."""
    assert changes(make_spec(), make_spec(part="l", generation=3)) == ()


def test_every_field_but_the_generation_counts(make_spec: MakeSpec) -> None:
    """No field of a spec but those of no process can change without a replacement."""
    other: dict[str, object] = {
        "role": "writer",
        "server": "bank",
        "bands": ("look",),
        "mode": "owner",
        "argv": ("/usr/bin/bank",),
        "directory": "/",
        "env": {},
        "secrets": {},
        "tools": {},
        "known": frozenset[str](),
        "cut": True,
        "era": "modern",
        "restart": {"give_up_after": 3},
        "probe": {"misses": 9},
        "stop": {"grace": "1s"},
        "sharing": "per-agent",
        "standby": 1,
        "http": {"listen": "port", "path": "/mcp"},
        "user": "svc-reader",
        "attached": "http://elsewhere:8080/mcp",
        "container": {
            "image": "sha256:" + 64 * "0",
            "user": "mcp",
            "keep": {},
            "memory": "256MiB",
            "cpus": 0.5,
            "pids": 64,
            "tmp": "16MiB",
            "engine": "/var/run/docker.sock",
        },
    }
    own = {"generation", "part", "credential"}
    of_no_process = {"policy", "rotation"}
    assert other.keys() == WorkloadSpec.model_fields.keys() - own - of_no_process
    for name, value in other.items():
        assert changes(make_spec(), make_spec(**{name: value})) == (name,)
