// The part of oneDNN's C interface (its reference, "oneapi::dnnl C API", version 3) that its rivals here use.
#include "falconet/device/cpu/onednn.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "falconet/base/error.h"
#include "falconet/tensor/tensor.h"

namespace falconet::onednn {
namespace {

using Handle = struct Opaque*;                       // of any of the library's objects
struct Version {
  int major, minor, patch;
};
struct Argument {
  int kind;
  Handle memory;
};
// Values of its enumerations.
enum : int { engine_cpu = 1, stream_default = 1, no_such_implementation = 3 };
enum : int { tag_any = 1 };
enum : int { forward = 64, forward_inference = 96, algorithm_auto = 3, algorithm_direct = 1, eltwise_relu = 32 };
enum : int { query_weights = 131, query_diff_weights = 132 };
enum : int { arg_src = 1, arg_dst = 17, arg_weights = 33, arg_bias = 41, arg_diff_src = 129, arg_diff_dst = 145, arg_diff_weights = 161, arg_diff_bias = 169 };

#define FALCONET_ONEDNN_FUNCTIONS(F) \
  F(engine_create, int (*)(Handle*, int, std::size_t)) \
  F(stream_create, int (*)(Handle*, Handle, unsigned)) \
  F(stream_wait, int (*)(Handle)) \
  F(memory_desc_create_with_strides, int (*)(Handle*, int, std::int64_t const*, int, std::int64_t const*)) \
  F(memory_desc_create_with_tag, int (*)(Handle*, int, std::int64_t const*, int, int)) \
  F(memory_desc_destroy, int (*)(Handle)) \
  F(memory_desc_equal, int (*)(Handle, Handle)) \
  F(memory_desc_get_size, std::size_t (*)(Handle)) \
  F(memory_create, int (*)(Handle*, Handle, Handle, void*)) \
  F(memory_set_data_handle, int (*)(Handle, void*)) \
  F(primitive_attr_create, int (*)(Handle*)) \
  F(primitive_attr_destroy, int (*)(Handle)) \
  F(post_ops_create, int (*)(Handle*)) \
  F(post_ops_append_eltwise, int (*)(Handle, int, float, float)) \
  F(post_ops_destroy, int (*)(Handle)) \
  F(primitive_attr_set_post_ops, int (*)(Handle, Handle)) \
  F(convolution_forward_primitive_desc_create, int (*)(Handle*, Handle, int, int, Handle, Handle, Handle, Handle, std::int64_t const*, std::int64_t const*, std::int64_t const*, std::int64_t const*, Handle)) \
  F(convolution_backward_data_primitive_desc_create, int (*)(Handle*, Handle, int, Handle, Handle, Handle, std::int64_t const*, std::int64_t const*, std::int64_t const*, std::int64_t const*, Handle, Handle)) \
  F(convolution_backward_weights_primitive_desc_create, int (*)(Handle*, Handle, int, Handle, Handle, Handle, Handle, std::int64_t const*, std::int64_t const*, std::int64_t const*, std::int64_t const*, Handle, Handle)) \
  F(matmul_primitive_desc_create, int (*)(Handle*, Handle, Handle, Handle, Handle, Handle, Handle)) \
  F(reorder_primitive_desc_create, int (*)(Handle*, Handle, Handle, Handle, Handle, Handle)) \
  F(primitive_desc_query_md, Handle (*)(Handle, int, int)) \
  F(primitive_desc_destroy, int (*)(Handle)) \
  F(primitive_create, int (*)(Handle*, Handle)) \
  F(primitive_execute, int (*)(Handle, Handle, int, Argument const*))

struct Library {
  std::string path, version;                         // path empty: not there
#define FALCONET_MEMBER(NAME, TYPE) std::add_pointer_t<std::remove_pointer_t<TYPE>> NAME = nullptr;
  FALCONET_ONEDNN_FUNCTIONS(FALCONET_MEMBER)
#undef FALCONET_MEMBER
  void (*set_threads)(int) = nullptr;
  Handle engine = nullptr, stream = nullptr;

  Library() {
    // Workers of OpenMP spin for milliseconds once they are done, on cores that the next algorithm is measured on: as briefly as falconet's.
    if (!std::getenv("OMP_WAIT_POLICY")) setenv("GOMP_SPINCOUNT", "2000", 0);
    void* const handle = dlopen("libdnnl.so.3", RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) return;
    auto const version_of = reinterpret_cast<Version const* (*)()>(dlsym(handle, "dnnl_version"));
    if (!version_of || version_of()->major != 3) return;
#define FALCONET_FIND(NAME, TYPE) \
  if (!(NAME = reinterpret_cast<TYPE>(dlsym(handle, "dnnl_" #NAME)))) return;
    FALCONET_ONEDNN_FUNCTIONS(FALCONET_FIND)
#undef FALCONET_FIND
    set_threads = reinterpret_cast<void (*)(int)>(dlsym(handle, "omp_set_num_threads"));   // of the OpenMP library that it needs
    if (engine_create(&engine, engine_cpu, 0) || stream_create(&stream, engine, stream_default)) return;
    auto const v = *version_of();
    version = std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch);
    link_map* map = nullptr;
    path = dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name ? map->l_name : "libdnnl.so.3";
  }
};
Library const& library() {
  static Library const one;
  return one;
}

int type_number(DType t) { return t == DType::bf16 ? 2 : 3; }   // f32

class Desc {                                         // of memory
 public:
  Desc() = default;
  Desc(Tensor const& t, bool any) {
    auto const& l = library();
    int const n = int(t.sizes.size());
    if (any ? l.memory_desc_create_with_tag(&handle_, n, t.sizes.data(), type_number(t.type), tag_any)
            : l.memory_desc_create_with_strides(&handle_, n, t.sizes.data(), type_number(t.type), t.strides.data()))
      handle_ = nullptr;
  }
  Desc(Desc const&) = delete;
  Desc& operator=(Desc const&) = delete;
  ~Desc() {
    if (handle_) library().memory_desc_destroy(handle_);
  }
  operator Handle() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

// A primitive's description; 0 or the library's status.
int describe(Description const& d, bool any_b, Handle* out) {
  auto const& l = library();
  // In f32 the library may hold b in another type than the caller's: bf16 beside f32 master weights.
  Tensor b = d.b;
  if (any_b && d.kind != Kind::conv_bwd_filter) b.type = d.a.type;
  Desc const a(d.a, false), w(b, any_b), y(d.y, false);
  std::vector<std::int64_t> const channels(d.kind == Kind::matmul ? 2 : 1, 1);
  Tensor bias_tensor{DType::f32, channels, channels};
  bias_tensor.sizes.back() = d.y.sizes[1];
  if (d.kind == Kind::matmul) bias_tensor.strides[0] = d.y.sizes[1];
  Desc const bias(bias_tensor, false);
  auto dilations = d.dilations;
  for (auto& v : dilations) --v;                     // there, 0 is none
  auto const *st = d.strides.data(), *di = dilations.data(), *before = d.pads_before.data(), *after = d.pads_after.data();
  Handle attributes = nullptr, after_it = nullptr, hint = nullptr;
  l.primitive_attr_create(&attributes);
  if (d.relu) {
    l.post_ops_create(&after_it);
    l.post_ops_append_eltwise(after_it, eltwise_relu, 0, 0);
    l.primitive_attr_set_post_ops(attributes, after_it);
    l.post_ops_destroy(after_it);
  }
  Handle const with_bias = d.bias ? Handle(bias) : nullptr;
  int status = 0;
  if (d.kind == Kind::matmul) status = l.matmul_primitive_desc_create(out, l.engine, a, w, with_bias, y, attributes);
  else if (d.kind == Kind::conv_fwd)
    status = l.convolution_forward_primitive_desc_create(out, l.engine, forward_inference, algorithm_auto, a, w, with_bias, y, st, di, before, after, attributes);
  else {
    Tensor forward_b = d.b;
    forward_b.type = d.a.type;
    Desc const fw(forward_b, any_b);
    status = l.convolution_forward_primitive_desc_create(&hint, l.engine, forward, algorithm_direct, a, fw, nullptr, y, st, di, before, after, nullptr);
    if (!status && d.kind == Kind::conv_bwd_data)
      status = l.convolution_backward_data_primitive_desc_create(out, l.engine, algorithm_direct, a, w, y, st, di, before, after, hint, attributes);
    else if (!status)
      status = l.convolution_backward_weights_primitive_desc_create(out, l.engine, algorithm_direct, a, w, with_bias, y, st, di, before, after, hint, attributes);
    if (hint) l.primitive_desc_destroy(hint);
  }
  l.primitive_attr_destroy(attributes);
  return status;
}

void need(int status, char const* what) {
  if (status) fail(ErrorKind::device, std::string("oneDNN: ") + what + " failed with status " + std::to_string(status));
}

}  // namespace

std::string found() { return library().path.empty() ? "" : library().path + ", version " + library().version; }

std::string refusal(Description const& d) {
  if (library().path.empty()) return "oneDNN 3 (libdnnl.so.3) is not found";
  Handle desc = nullptr;
  if (int const status = describe(d, d.free_b, &desc)) return status == no_such_implementation ? "oneDNN has no implementation of it" : "oneDNN refuses it";
  library().primitive_desc_destroy(desc);
  return {};
}

class Primitive {
 public:
  Primitive(Description const& d, int threads) : kind_(d.kind) {
    auto const& l = library();
    if (l.set_threads) l.set_threads(threads);
    Handle desc = nullptr;
    need(describe(d, d.free_b, &desc), "describing a primitive");
    Desc const a(d.a, false), b(d.b, false), y(d.y, false), bias(Tensor{DType::f32, {d.y.sizes[1]}, {1}}, false), row(Tensor{DType::f32, {1, d.y.sizes[1]}, {d.y.sizes[1], 1}}, false);
    need(l.primitive_create(&primitive_, desc), "making a primitive");
    Handle const own = l.primitive_desc_query_md(desc, d.kind == Kind::conv_bwd_filter ? query_diff_weights : query_weights, 0);
    need(l.memory_create(&a_, a, l.engine, nullptr), "memory");
    need(l.memory_create(&b_, b, l.engine, nullptr), "memory");
    need(l.memory_create(&y_, y, l.engine, nullptr), "memory");
    if (d.bias) need(l.memory_create(&bias_, d.kind == Kind::matmul ? row : bias, l.engine, nullptr), "memory");
    own_b_ = b_;
    if (own && !l.memory_desc_equal(own, b)) {
      form_ = Buffer(l.memory_desc_get_size(own));
      need(l.memory_create(&own_b_, own, l.engine, form_.data()), "memory");
      bool const back = d.kind == Kind::conv_bwd_filter;
      Handle reorder = nullptr;
      need(l.reorder_primitive_desc_create(&reorder, back ? own : Handle(b), l.engine, back ? Handle(b) : own, l.engine, nullptr), "a reorder");
      need(l.primitive_create(&reorder_, reorder), "a reorder");
      l.primitive_desc_destroy(reorder);
    }
    l.primitive_desc_destroy(desc);
  }

  void run(int threads, void* a, void* b, void* y, void* bias) {
    auto const& l = library();
    if (l.set_threads) l.set_threads(threads);
    l.memory_set_data_handle(a_, a), l.memory_set_data_handle(b_, b), l.memory_set_data_handle(y_, y);
    if (bias_) l.memory_set_data_handle(bias_, bias);
    bool const filter = kind_ == Kind::conv_bwd_filter, data = kind_ == Kind::conv_bwd_data;
    auto const reorder = [&] {
      Argument const both[] = {{arg_src, filter ? own_b_ : b_}, {arg_dst, filter ? b_ : own_b_}};
      need(l.primitive_execute(reorder_, l.stream, 2, both), "a reorder");
    };
    if (reorder_ && !filter) reorder();
    Argument const all[] = {{data ? arg_diff_src : arg_src, a_}, {filter ? arg_diff_weights : arg_weights, own_b_},
                            {filter || data ? arg_diff_dst : arg_dst, y_}, {filter ? arg_diff_bias : arg_bias, bias_}};
    need(l.primitive_execute(primitive_, l.stream, bias_ ? 4 : 3, all), "a primitive");
    if (reorder_ && filter) reorder();
    l.stream_wait(l.stream);
  }

 private:
  Kind kind_;
  Handle primitive_ = nullptr, reorder_ = nullptr, a_ = nullptr, b_ = nullptr, own_b_ = nullptr, y_ = nullptr, bias_ = nullptr;   // kept to the end, as the library is
  Buffer form_;
};

Primitive& primitive(std::string const& key, int threads, Description const& d) {
  static std::mutex mutex;
  static auto& all = *new std::map<std::pair<std::string, int>, std::unique_ptr<Primitive>>;   // outlives what the library's destructors may still run
  std::lock_guard const lock(mutex);
  auto& one = all[{key, threads}];
  if (!one) one = std::make_unique<Primitive>(d, threads);
  return *one;
}
void run(Primitive& p, int threads, void* a, void* b, void* y, void* bias) { p.run(threads, a, b, y, bias); }

}  // namespace falconet::onednn
