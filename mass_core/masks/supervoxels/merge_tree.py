"""Trees of regions: neighbours merge step by step, so that every node of the tree is an object of some size.

Pure functions on arrays of regions, without images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A merge tree over L leaves; nodes 0 .. L-1 are the leaves, later nodes join earlier ones."""

    parent: Ints
    """[N] node above, -1 at a root."""
    height: Floats
    """[N] cost of the merge that made the node, 0 for leaves."""
    first: Ints
    """[N] position of the node's first leaf in `order`."""
    leaves: Ints
    """[N] number of leaves below the node: they are `order[first : first + leaves]`."""
    order: Ints
    """[L] the leaves, sorted so that every node's leaves are contiguous."""

    def below(self, node: int) -> Ints:
        """Leaves that make up a node."""
        return self.order[self.first[node] : self.first[node] + self.leaves[node]]


def neighbours(labels: NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Pairs u < v of regions that share a face.

    Args:
        labels: [z,y,x] region numbers from 0; negative voxels belong to no region.
    """
    count = int(labels.max(initial=-1)) + 1
    keys = []
    for axis in range(labels.ndim):
        moved = np.moveaxis(labels, axis, 0)
        one, two = moved[:-1].ravel(), moved[1:].ravel()
        touching = (one != two) & (one >= 0) & (two >= 0)
        one, two = one[touching].astype(np.int64), two[touching].astype(np.int64)
        keys.append(np.minimum(one, two) * count + np.maximum(one, two))
    pairs = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    return pairs // max(count, 1), pairs % max(count, 1)


def merge_tree(pairs: tuple[Ints, Ints], features: Floats, sizes: Floats) -> Tree:
    """Merge regions by Ward's criterion until no neighbours are left.

    The cost of a merge is the growth of the summed squared deviation, |difference of means|^2 n1 n2 / (n1 + n2), so small and similar
    regions merge first. In each round all pairs that are each other's cheapest merge at once; as Ward's cost grows with merging, this
    is the order of the one-by-one algorithm up to the effect of adjacency, in tens of rounds on arrays.

    Args:
        pairs: regions that touch, as from `neighbours`.
        features: [L,C] mean features of the leaves.
        sizes: [L] voxels of the leaves.
    """
    leaves = len(sizes)
    total = max(2 * leaves - 1, 0)
    mean, size, height = np.zeros((total, features.shape[1])), np.zeros(total), np.zeros(total)
    mean[:leaves], size[:leaves] = features, sizes
    parent = np.full(total, -1, np.int64)
    used = leaves
    u, v = pairs
    cost = _ward(mean, size, u, v)
    while len(u):
        chosen = _mutually_cheapest(u, v, cost, used)
        one, two = u[chosen], v[chosen]
        new = np.arange(used, used + len(chosen))
        parent[one], parent[two], height[new] = new, new, cost[chosen]
        size[new] = size[one] + size[two]
        mean[new] = (mean[one] * size[one, None] + mean[two] * size[two, None]) / size[new, None]
        used += len(chosen)
        u, v, cost = _contract(u, v, cost, parent, mean, size)
    return _ordered(parent[:used], height[:used], leaves)


def _ward(mean: Floats, size: Floats, u: Ints, v: Ints) -> Floats:
    difference = mean[u] - mean[v]
    return np.einsum("ec,ec->e", difference, difference) * size[u] * size[v] / (size[u] + size[v])


def _mutually_cheapest(u: Ints, v: Ints, cost: Floats, used: int) -> Ints:
    """Edges that are the cheapest of both their ends; of equal ones the lower number counts as cheaper, so there always is one."""
    dearest_first = np.argsort(cost, kind="stable")[::-1]
    place = np.arange(len(cost))
    rank = np.empty_like(place)
    rank[dearest_first] = place
    # Where a region occurs more than once in the index, the last value stays: that of its cheapest edge.
    best_u, best_v = np.full(used, -1), np.full(used, -1)
    best_u[u[dearest_first]] = place
    best_v[v[dearest_first]] = place
    best = np.maximum(best_u, best_v)
    return np.flatnonzero((best[u] == rank) & (best[v] == rank))


def _contract(u: Ints, v: Ints, cost: Floats, parent: Ints, mean: Floats, size: Floats) -> tuple[Ints, Ints, Floats]:
    """Edges after a round of merging: ends replaced by their new nodes, inner edges and doubles gone, costs up to date."""
    one = np.where(parent[u] >= 0, parent[u], u)
    two = np.where(parent[v] >= 0, parent[v], v)
    outer = one != two
    changed = ((one != u) | (two != v))[outer]
    one, two, cost = one[outer], two[outer], cost[outer]
    low, high = np.minimum(one, two), np.maximum(one, two)
    moved = np.flatnonzero(changed)
    _, first = np.unique(low[moved] * len(parent) + high[moved], return_index=True)
    moved = moved[first]
    cost[moved] = _ward(mean, size, low[moved], high[moved])
    kept = np.concatenate([np.flatnonzero(~changed), moved])
    return low[kept], high[kept], cost[kept]


def _ordered(parent: Ints, height: Floats, leaves: int) -> Tree:
    """Sort the leaves so that those of every node are contiguous (a child's number is always below its parent's)."""
    above = parent.tolist()
    nodes = len(above)
    below = [1] * leaves + [0] * (nodes - leaves)
    for node, up in enumerate(above):
        if up >= 0:
            below[up] += below[node]
    free = [0] * (nodes + 1)
    first = [0] * nodes
    for node in range(nodes - 1, -1, -1):
        up = above[node]
        first[node] = free[node] = free[up] if up >= 0 else free[nodes]
        free[up if up >= 0 else nodes] += below[node]
    order = np.empty(leaves, np.int64)
    order[first[:leaves]] = np.arange(leaves)
    return Tree(parent=parent, height=height, first=np.array(first, np.int64), leaves=np.array(below, np.int64), order=order)
