// Where a thread of a pooling kernel works.
#pragma once

namespace falconet::pooling {

struct Place {
  int n, row, column, c;
};

// Element `index` of a result as image, row, column and first channel, channels fastest, in vectors of v. Geometry has the divisions: by_channels (in vectors),
// by_columns, by_rows.
template <int v, class Geometry>
__device__ Place place_of(Geometry const& g, int index) {
  Place t;
  int rest = g.by_channels(index, t.c);
  t.c *= v;
  rest = g.by_columns(rest, t.column);
  t.n = g.by_rows(rest, t.row);
  return t;
}

}  // namespace falconet::pooling
