"""What ``train --dry-run`` prints."""

from faceshifter.train.plan import Plan


def print_plan(plan: Plan) -> None:
    """Print every setting, then networks, arithmetic, memory, disk and what is missing."""
    print("recipe")
    width = max(map(len, plan.settings))
    for name, value in plan.settings.items():
        print(f"  {name:{width}}  {value}")
    print(f"\n{'networks':24}{'weights':>10}{'forward':>14}   passes of a sample in a step")
    for network in plan.networks:
        passes = (
            f"{network.forwards:.3g} forward",
            f"{network.backwards:.3g} backward" if network.backwards else "",
            f"{network.input_backwards:.3g} to the input" if network.input_backwards else "",
        )
        millions = network.parameters / 1e6
        print(
            f"  {network.name[-22:]:22}{millions:8.2f} M{network.gmac:9.2f} GMAC   "
            + ", ".join(filter(None, passes))
        )
    step_gmac = plan.batch * plan.sample_gmac
    print(
        f"  a step: batch {plan.batch} x {plan.sample_gmac:.2f} = {step_gmac:.1f} GMAC, the whole "
        f"training {plan.steps * step_gmac / 1e6:,.2f} PMAC (a backward pass counts as two forward "
        "ones, one to the input alone as one)"
    )
    _print_sizes(
        "memory in float32, without the libraries' (on a GPU activations are about 0.7 of this)",
        plan.memory,
    )
    _print_sizes("disk, at most", plan.disk)
    if plan.notes:
        print("\nmissing")
        for note in plan.notes:
            print(f"  {note}")


def _print_sizes(title: str, sizes: dict[str, int]) -> None:
    print(f"\n{title}")
    for name, size in (sizes | {"in all": sum(sizes.values())}).items():
        print(f"  {name:44}{size / 1e6:12,.1f} MB")
