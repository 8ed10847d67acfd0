// The problems that gpu_conv checks: every list of problems/conv, in all directions and types and as large as the reference can do, and shapes beside the
// tiles, strips and slots of the GPU's kernels.
#pragma once
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "conv_case.h"
#include "falconet/ops/conv/problem.h"
#include "falconet/ops/problem_list.h"

namespace falconet::gpu_test {

// Of every list, each problem as large as li2019's, or of the same kind.
inline std::vector<ConvProblem> listed_problems() {
  std::vector<std::filesystem::path> lists;
  for (auto const& file : std::filesystem::directory_iterator(FALCONET_SOURCE_DIR "/problems/conv")) lists.push_back(file.path());
  std::sort(lists.begin(), lists.end());
  std::vector<ConvProblem> out;
  for (auto const& list : lists)
    for (auto const& line : read_problem_list(list.string())) {
      ConvProblem const p = ConvProblem::parse(line);
      out.push_back(p.operations() > 3e7 ? within_reach(p) : p);
    }
  return out;
}

// What vendor libraries are compared with the reference on: f32 in both layouts, and bf16 as networks have it.
inline std::vector<std::string> problems_for_rivals() {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (ConvProblem p : listed_problems())
    for (Direction d : {Direction::fwd, Direction::bwd_data, Direction::bwd_filter})
      for (auto [type, math, layout] : {std::tuple{DType::f32, Math::exact, Layout::nhwc}, {DType::f32, Math::exact, Layout::nchw}, {DType::f32, Math::tf32, Layout::nhwc},
                                        {DType::bf16, Math::exact, Layout::nhwc}}) {
        p.direction = d, p.math = math, p.layout = layout;
        p.x_type = p.w_type = p.y_type = type;
        if (seen.insert(p.text()).second) out.push_back(p.text());
      }
  return out;
}

inline std::vector<std::string> problems_to_check() {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (ConvProblem p : listed_problems())
    for (Direction d : {Direction::fwd, Direction::bwd_data, Direction::bwd_filter}) {
      p.direction = d;
      p.math = Math::exact;
      for (DType t : {DType::f64, DType::f32, DType::bf16}) {
        p.x_type = p.w_type = p.y_type = t;
        if (seen.insert(p.text()).second) out.push_back(p.text());
      }
      p.x_type = p.w_type = p.y_type = DType::f32;
      p.math = Math::tf32;
      if (seen.insert(p.text()).second) out.push_back(p.text());
    }
  // Channels that fit the copy engine, geometry that does not sit on tiles.
  char const* const geometry[] = {
      "n3 c64 hw14 k64 rs3 p1", "n2 c64 h9 w13 k128 rs1", "n2 c128 h7 w11 k72 r3 s5 p0.1.2.3", "n1 c16 hw15 k24 rs3 p1", "n5 c40 hw6 k264 rs1",
      "n2 c64 hw12 k64 rs3 p2 d2", "n2 c32 h10 w20 k320 r1 s7 p0.3", "n7 c8 h5 w3 k8 rs3 p1", "n3 c64 h14 w12 k64 rs3 p1 st2", "n3 c72 h13 w15 k96 rs3 p1 st2",
      "n2 c128 hw9 k64 rs1 st2", "n2 c64 hw8 k40 rs1 st2", "n2 c24 h17 w11 k64 rs5 p2 st2", "n2 c64 h11 w9 k64 rs2 st2.1", "n9 c192 hw5 k200 rs3 p1", "n1 c64 hw1 k64 rs1",
      "n1 c64 hw2 k64 rs3 p1 st2", "n2 c16 hw19 k64 rs7 p3 st2", "n2 c64 hw56 k64 rs3 p1", "n3 c64 h13 w56 k64 rs3 p1", "n2 c64 h5 w112 k64 rs3 p1", "n2 c64 h9 w61 k64 rs3 p1", "n3 c64 h13 w60 k192 rs3 p1", "n3 c64 hw31 k64 rs3 p1", "n2 c64 h20 w29 k64 rs3 p1", "n140 c64 h9 w2 k64 rs3 p1", "n2 c64 h9 w30 k128 rs3 p1", "n150 c64 h2 w3 k64 rs3 p1", "n33 c16 hw4 k16 rs3 p1", "n2 c256 hw7 k512 rs1", "n2 c16 hw32 k16 rs3 p1",
      "n2 c32 hw16 k32 rs3 p1", "n3 c32 hw16 k64 rs3 p1 st2", "n3 c16 hw32 k32 rs1 st2"};
  char const* const forward[] = {"", " store=squares", " store=bias+relu", " store=scale_shift+residual+relu6", " store=residual", " store=scale_shift+bias"};
  char const* const data[] = {"", " store=mask", " store=residual+mask+dot", " store=mask+dot", " store=residual", " store=dot", " store=residual+mask+dot_other", " store=mask+dot_other", " store=dot_other",
                              " store=residual+dot_other", " store=residual+mask", " store=mask6", " store=mask6+dot_other",
                              " load_x=scale_shift+relu store=mask_x+dot_x", " load_x=scale_shift+relu6 store=mask_x+dot_x"};
  char const* const filter[] = {" bf16", " bf16,f32,bf16"};
  for (std::string g : geometry) {
    for (std::string s : forward) out.push_back(g + " bf16 nhwc" + s);
    for (std::string s : data) out.push_back("bwd_data " + g + " bf16 nhwc" + s);
    for (std::string t : filter)
      for (std::string s : {"", " store=bias"}) out.push_back("bwd_filter " + g + t + " nhwc" + s);
    std::string const allowed = " f32 nhwc math=tf32";
    for (std::string s : {"", " store=bias+relu", " store=scale_shift+residual"}) out.push_back(g + allowed + s);
    for (std::string s : {"", " store=residual+mask"}) out.push_back("bwd_data " + g + allowed + s);
    out.push_back("bwd_filter " + g + allowed);
  }
  for (std::string g : {"n2 c12 h13 w17 k8 r2 s5 p1 st1.3", "n1 c4 hw1 k8 rs3 p1 st2", "n3 c8 h6 w11 k20 r1 s3 p0.1 st4.1", "n2 c7 h9 w10 k5 rs3 p1 st2", "n2 c6 hw11 k10 rs5 p2 st1.2"})
    for (std::string d : {"", "bwd_data ", "bwd_filter "}) out.push_back(d + g + " f32 nhwc math=tf32");
  for (std::string g : {"n3 c3 hw32 k64 rs7 p3 st2", "n2 c3 h48 w224 k64 rs7 p3 st2", "n5 c3 h16 w160 k64 rs7 p3 st2"}) {
    for (std::string s : {"", " store=squares", " store=bias+relu", " store=scale_shift"}) out.push_back(g + " bf16 nhwc" + s);
    for (std::string t : filter) out.push_back("bwd_filter " + g + t + " nhwc");
  }
  // The same of 3x3: both strides, tiles of 1, 2, 4 and 8 rows, rows that are no multiple of 64 pairs of pixels, more tiles than blocks.
  for (std::string g : {"n3 c3 hw32 k64 rs3 p1", "n2 c3 h12 w224 k64 rs3 p1", "n2 c3 h7 w128 k32 rs3 p1", "n3 c3 h20 w224 k32 rs3 p1 st2", "n2 c3 h31 w64 k64 rs3 p1 st2", "n5 c3 h16 w512 k32 rs3 p1 st2",
                        "n80 c3 h16 w32 k64 rs3 p1"}) {
    for (std::string t : {" bf16", " bf16,f32,bf16"}) {
      for (std::string s : {"", " store=squares", " store=bias+relu", " store=scale_shift+bias+relu6"}) out.push_back(g + t + " nhwc" + s);
      for (std::string s : {"", " store=bias"}) out.push_back("bwd_filter " + g + t + " nhwc" + s);
    }
  }
  // The data gradient of a first convolution: odd sizes, several strips and bands, more of them than places, filters that leave taps out.
  for (std::string g : {"n3 c3 hw32 k64 rs7 p3 st2", "n2 c3 h48 w224 k64 rs7 p3 st2", "n5 c3 h30 w261 k40 r7 s5 p0.1.2.3 st2", "n2 c3 h13 w17 k8 rs3 p1 st2", "n600 c3 h9 w7 k16 rs2 st2", "n1 c3 hw1 k64 rs1 st2",
                        "n2 c3 h131 w129 k32 rs6 p2 st2", "n3 c3 h10 w12 k56 r4 s7 p5.0.1.6 st2"})
    for (std::string t : {" bf16", " bf16,f32,bf16"}) out.push_back("bwd_data " + g + t + " nhwc");
  out.push_back("bwd_data n70 c8456 hw1 k64 rs1 bf16 nhwc store=mask");   // more channels than a block per 64 of them keeps
  out.push_back("n70 c64 hw1 k8520 rs1 bf16 nhwc store=bias+relu");
  for (std::string g : {"n2 c64 hw56 k64 rs3 p1", "n3 c64 h13 w61 k64 rs3 p1", "n2 c64 h10 w112 k128 rs3 p1"})   // the halo's pooled ending
    for (std::string s : {"max_pool2", "bias+relu+max_pool2", "scale_shift+bias+relu+max_pool2"}) out.push_back(g + " bf16 nhwc store=" + s);
  for (std::string g : {"n2 c128 h9 w13 k64 rs1", "n5 c256 hw6 k40 rs1", "n3 c384 h7 w11 k72 r3 s5 p0.1.2.3", "n9 c512 hw5 k200 rs3 p1", "n70 c128 h2 w3 k64 rs3 p1"})   // masks as bits
    for (std::string s : {" store=mask_bits+dot_other", " store=residual+mask_bits+dot_other"}) out.push_back("bwd_data " + g + " bf16 nhwc" + s);
  for (std::string g : {"n3 c1544 hw1 k2056 rs1", "n1 c200 hw2 k1032 rs3 p1"})   // short sums over so many tiles that none is cut
    for (std::string t : filter) out.push_back("bwd_filter " + g + t + " nhwc");
  // Few channels.
  for (std::string g : {"n3 c16 hw32 k16 rs3 p1", "n5 c16 h13 w37 k16 rs3 p1", "n2 c3 hw32 k16 rs3 p1", "n3 c1 h7 w9 k16 rs3 p0.1.1.0", "n3 c16 h17 w33 k32 rs3 p1 st2", "n70 c16 hw4 k16 rs3 p1",
                        "n3 c32 h16 w15 k32 rs3 p1", "n9 c32 h9 w8 k64 rs3 p1 st2", "n4 c16 hw11 k32 rs1 st2", "n5 c32 h7 w6 k64 rs1", "n6 c64 hw8 k64 rs3 p1", "n300 c16 h20 w8 k16 rs3 p1",
                        "n2 c16 h5 w70 k16 rs3 p2"})
    for (std::string t : {" bf16", " bf16,f32,bf16"}) {
      for (std::string s : {"", " store=squares", " store=bias+residual+relu", " store=scale_shift+bias+relu6+squares"}) out.push_back(g + t + " nhwc" + s);
      for (std::string s : {"", " store=mask+dot_other", " store=residual+mask+dot_other", " store=dot", " store=residual+mask", " store=dot_other"})
        out.push_back("bwd_data " + g + t + " nhwc" + s);
      out.push_back("bwd_filter " + g + t + " nhwc");
    }
  // Few channels in f32: the direct kernels, their slots, sizes that do not sit on their tiles, batches that do not fill a cluster.
  for (std::string g : {"n3 c1 hw28 k8 rs5", "n2 c8 hw24 k8 rs5", "n9 c8 hw12 k8 rs5", "n5 c1 hw14 k6 rs5 p2", "n3 c6 hw14 k16 rs5", "n1 c4 hw32 k1 rs3 p1", "n17 c4 h9 w7 k16 rs3 p1", "n2 c5 h11 w13 k7 rs3 p0.1.2.1",
                        "n140 c3 h6 w5 k3 rs3 p1", "n1 c2 hw5 k9 rs5", "n2 c20 h10 w33 k36 rs3 p2", "n11 c8 h7 w6 k4 rs5 p4", "n2 c64 hw9 k64 rs3 p1", "n1 c1 hw1 k1 rs3 p1",
                        "n2 c4 h9 w32 k16 rs3 p1", "n1 c8 h5 w64 k24 rs3 p1", "n3 c16 h6 w32 k32 rs3 p1", "n2 c12 h7 w96 k48 rs3 p0.1.2.1", "n40 c4 h5 w32 k16 rs3 p2.1.0.1"}) {
    for (std::string s : {"", " store=bias+relu", " store=bias+tanh", " store=residual+relu", " store=mask"}) out.push_back(g + " f32 nhwc" + s);
    for (std::string s : {"", " store=mask", " store=residual", " store=residual+mask"}) out.push_back("bwd_data " + g + " f32 nhwc" + s);
    for (std::string s : {"", " store=bias"}) out.push_back("bwd_filter " + g + " f32 nhwc" + s);
    if (ConvProblem::parse(g).p() < 2 || ConvProblem::parse(g).q() < 2) continue;
    out.push_back(g + " f32 nhwc store=bias+relu+max_pool2");
    out.push_back(g + " f32 nhwc store=max_pool2");
    out.push_back("bwd_data " + g + " f32 nhwc load_dy=max_unpool2");
    out.push_back("bwd_data " + g + " f32 nhwc load_dy=max_unpool2 store=mask");
    out.push_back("bwd_filter " + g + " f32 nhwc load_dy=max_unpool2 store=bias");
  }
  out.push_back("bwd_data n2 c8 hw13 k8 rs5 f32 nhwc load_dy=max_unpool3");
  out.push_back("bwd_filter n2 c8 hw13 k8 rs5 f32 nhwc load_dy=max_unpool3");
  // Depthwise: every slot, strips and bands that do not fit, channels that are no whole vector.
  for (std::string g : {"n3 c8 hw14 k8 rs3 p1 g8", "n2 c24 h9 w13 k24 rs3 p1 st2 g24", "n2 c40 h17 w11 k40 rs5 p2 g40", "n3 c12 h8 w7 k12 rs5 p2 st2 g12", "n2 c33 hw7 k33 rs3 p1 g33",
                        "n2 c144 h21 w10 k144 rs3 p1 g144", "n3 c272 h6 w5 k272 rs3 p0.1.2.0 st2 g272", "n2 c7 h6 w8 k7 rs5 p4 st2 g7"})
    for (std::string t : {" bf16", " bf16,f32,bf16", " f32"}) {
      for (std::string s : {"", " store=squares", " store=bias+relu6", " store=scale_shift+residual+relu+squares", " load_x=scale_shift+relu6 store=squares", " load_x=relu store=bias"})
        out.push_back(g + t + " nhwc" + s);
      for (std::string s : {"", " store=mask6+dot_other", " store=residual+mask+dot_other", " store=dot", " store=residual", " store=mask6", " store=squares"}) out.push_back("bwd_data " + g + t + " nhwc" + s);
      for (std::string s : {"", " store=bias", " load_x=scale_shift+relu6", " load_x=relu6 store=bias"}) out.push_back("bwd_filter " + g + t + " nhwc" + s);
    }
  // 3x3 filters in f32: winograd's tiles at every border, its load and store slots, several rounds of images and parts of sums.
  for (std::string g : {"n3 c4 h9 w7 k5 rs3 p1", "n2 c8 hw14 k40 rs3 p1", "n2 c20 h6 w11 k70 rs3", "n1 c33 h13 w10 k36 rs3 p0.1.2.1", "n5 c64 hw8 k64 rs3 p1", "n2 c68 h21 w17 k132 rs3 p2", "n33 c12 hw5 k9 rs3 p1", "n40 c4 hw20 k8 rs3 p1"}) {
    for (std::string s : {"", " store=bias+relu", " store=bias+relu+max_pool2", " store=bias+relu6+average_pool2", " store=scale_shift+residual+relu6", " store=mask", " load_x=scale_shift+relu", " load_x=scale_shift store=bias"}) out.push_back(g + " f32 nhwc" + s);
    for (std::string s : {"", " store=residual+mask", " store=mask6", " load_dy=max_unpool2", " load_dy=average_unpool2 store=mask", " load_dy=two_operand store=mask"}) out.push_back("bwd_data " + g + " f32 nhwc" + s);
    for (std::string s : {"", " store=bias", " load_x=scale_shift+relu", " load_dy=two_operand store=bias", " load_dy=max_unpool2 store=bias", " load_dy=average_unpool2 store=bias", " load_x=relu load_dy=two_operand"}) out.push_back("bwd_filter " + g + " f32 nhwc" + s);
  }
  // Filter gradients of other filters than 3x3 in f32: rows of taps, strides, lines that are cut, 1x1 with and without pixels that are left out.
  for (std::string g : {"n3 c72 hw13 k96 rs1", "n2 c33 h9 w7 k70 rs1 st2", "n1 c130 hw5 k129 rs1 p1", "n7 c20 h3 w5 k200 rs1 st2.1", "n5 c40 h11 w61 k72 rs5 p2", "n2 c36 h9 w30 k20 rs7 p3 st2", "n2 c33 hw12 k65 r1 s5 p0.2",
                        "n3 c64 h8 w19 k64 r5 s3 p2.1", "n2 c64 h9 w130 k32 r1 s3 p0.1", "n9 c34 hw7 k68 rs7 p3", "n2 c48 h12 w57 k40 r2 s7 p1.3 st2.2"})
    out.push_back("bwd_filter " + g + " f32 nhwc");
  // Larger filters in f32: fft's tiles at every border, of both sizes, its slots, spans by dilation.
  for (std::string g : {"n2 c5 h20 w33 k7 rs7 p3", "n1 c16 hw40 k12 rs11 p5", "n3 c6 h17 w9 k9 r5 s7 p2.3", "n2 c4 hw33 k20 rs5 p8 d4", "n1 c3 h30 w21 k34 rs19 p9", "n9 c18 hw12 k10 rs7 p3"}) {
    for (std::string s : {"", " store=bias+relu", " store=scale_shift+residual+relu6", " load_x=scale_shift+relu store=bias", " store=bias+relu+max_pool2", " store=relu6+average_pool2"}) out.push_back(g + " f32 nhwc" + s);
    for (std::string s : {"", " store=residual+mask", " load_dy=max_unpool2", " load_dy=average_unpool2", " load_dy=two_operand store=mask6"}) out.push_back("bwd_data " + g + " f32 nhwc" + s);
    for (std::string s : {"", " store=bias", " load_x=scale_shift+relu", " load_dy=two_operand", " load_dy=max_unpool2 store=bias", " load_dy=average_unpool2 store=bias"}) out.push_back("bwd_filter " + g + " f32 nhwc" + s);
  }
  // Pooled results of any filter.
  for (std::string g : {"n2 c5 h11 w14 k9 rs3 p1", "n3 c16 hw12 k70 rs5 p2", "n2 c8 h13 w10 k6 r2 s4 p1.0.2.1 st2.1 d1.2", "n1 c66 hw9 k12 rs1", "n2 c3 h23 w17 k20 rs7 p3 st2"})
    for (std::string t : {" f32", " bf16"}) {
      for (std::string pool : {"max", "average"}) {
        for (std::string s : {"", "bias+relu+", "scale_shift+relu6+"}) out.push_back(g + t + " nhwc store=" + s + pool + "_pool2");
        for (std::string s : {"", " store=residual+mask"}) out.push_back("bwd_data " + g + t + " nhwc load_dy=" + pool + "_unpool2" + s);
        for (std::string s : {"", " store=bias"}) out.push_back("bwd_filter " + g + t + " nhwc load_dy=" + pool + "_unpool2" + s);
      }
    }
  // Groups: whole vectors and single channels, strips that do not fit, strides and dilations.
  for (std::string g : {"n2 c8 h9 w14 k16 rs3 p1 g2", "n3 c32 hw8 k32 rs3 p1 g8", "n2 c16 h7 w9 k32 rs3 p1 st2 g4", "n2 c24 h11 w6 k8 rs5 p2 g2", "n2 c6 h8 w7 k9 rs3 p1 g3", "n1 c12 hw9 k24 r2 s4 p1.0.2.1 st2.1 d1.2 g3",
                        "n4 c16 hw6 k4 rs1 g4", "n2 c40 hw20 k40 rs3 p1 g5"}) {
    for (std::string t : {" f32", " bf16"}) {
      for (std::string s : {"", " store=bias+relu", " store=scale_shift+residual+relu6"}) out.push_back(g + t + " nhwc" + s);
      for (std::string s : {"", " store=residual+mask", " store=mask6"}) out.push_back("bwd_data " + g + t + " nhwc" + s);
      out.push_back("bwd_filter " + g + t + " nhwc");
    }
    out.push_back("bwd_filter " + g + " bf16,f32,bf16 nhwc");
  }
  // Depthwise between two batch norms: forward and both gradients; sizes beside strips, bands and groups of channels.
  for (std::string g : {"n3 c8 hw14 k8 rs3 p1 g8", "n2 c64 hw7 k64 rs3 p1 g64", "n2 c72 h9 w13 k72 rs3 p1 st2 g72", "n3 c144 hw28 k144 rs3 p1 st2 g144", "n2 c96 h21 w10 k96 rs3 p1 g96",
                        "n5 c16 h1 w30 k16 rs3 p1 g16", "n2 c32 h15 w56 k32 rs3 p1 st2 g32", "n2 c200 h6 w1 k200 rs3 p1 st2 g200", "n1700 c8 hw7 k8 rs3 p1 g8", "n1650 c8 hw7 k8 rs3 p1 st2 g8"})
    for (std::string t : {" bf16", " bf16,f32,bf16"}) {
      for (std::string s : {"", " store=squares", " load_x=scale_shift+relu6 store=squares", " load_x=scale_shift store=squares", " load_x=relu"}) out.push_back(g + t + " nhwc" + s);
      for (std::string s : {"relu6", "relu"}) out.push_back("bwd " + g + t + " nhwc load_x=scale_shift+" + s + " load_dy=two_operand store=mask_x+dot_x");
    }
  // 1x1 between few and many channels, the same; pixels that are no whole tile, more tiles than blocks.
  for (std::string g : {"n3 c16 hw9 k96", "n2 c24 h5 w13 k144", "n5 c32 hw7 k192", "n3 c32 hw11 k16", "n2 c96 hw9 k24", "n3 c144 h7 w5 k24", "n2 c144 hw8 k32", "n240 c32 hw15 k16",
                        "n1 c32 hw1 k16", "n3 c192 h7 w5 k32"})
    for (std::string t : {" rs1 bf16", " rs1 bf16,f32,bf16"}) {
      for (std::string s : {"", " store=squares", " load_x=scale_shift+relu6 store=squares", " load_x=scale_shift"}) out.push_back(g + t + " nhwc" + s);
      for (std::string s : {" load_dy=two_operand", " load_dy=two_operand store=residual", " load_dy=two_operand store=residual+dot_other", " load_dy=two_operand store=dot_other",
                            " load_x=scale_shift+relu6 load_dy=two_operand store=mask_x+dot_x", " load_x=scale_shift+relu load_dy=two_operand store=mask_x+dot_x"})
        out.push_back("bwd " + g + t + " nhwc" + s);
    }
  // Slots that only the plain kernels have.
  for (char const* p : {"bwd_data n2 c24 h5 w7 k9 rs3 p1 bf16 nhwc store=residual+mask_bits+dot_other", "n2 c6 h9 w8 k5 rs3 p1 f32 nhwc store=bias+relu+max_pool2", "n2 c6 h9 w8 k5 rs3 p1 f32 nchw load_x=scale_shift+relu store=scale_shift+mask+squares",
                        "bwd_data n2 c6 h9 w8 k5 rs3 p1 f32 nhwc load_dy=two_operand store=mask+dot", "bwd_filter n2 c6 h9 w8 k5 rs3 p1 f64 nhwc load_dy=max_unpool2 store=bias",
                        "bwd_data n2 c64 hw9 k64 rs3 p1 bf16 nhwc store=mask+dot", "bwd_filter n2 c6 h9 w8 k5 rs3 p1 st2 f32 nchw load_x=scale_shift+relu load_dy=two_operand store=bias", "n2 c6 hw8 k6 rs3 p1 g3 f32 nhwc store=bias+gelu"})
    out.push_back(p);
  return out;
}

}  // namespace falconet::gpu_test
