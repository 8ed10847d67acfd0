// The tables behind the command line. A new setting is one row here and one getter where it is used.
#include "falconet/base/settings.h"

namespace falconet {
namespace {

using enum SettingType;

// Verbs that several rows share.
constexpr std::string_view all_that_run = "train, eval, predict, summary, tune, bench conv, bench train, bench predict";
constexpr std::string_view networks_with_checks = "train, eval, predict, summary, tune, bench train, bench predict, checks";
constexpr std::string_view networks = "train, eval, predict, summary, tune, bench train, bench predict";
constexpr std::string_view compiled = "train, summary, tune, bench train, bench predict";
constexpr double most_count = 1e6;   // of epochs, steps and repetitions: they are counted in an int
constexpr std::string_view with_rows = "train, eval, predict, summary, bench conv, bench train, bench predict, checks";

constexpr Verb verbs[] = {
    {"train", "train a network, into a run folder", "train recipe=mnist"},
    {"eval", "test loss and accuracy of a trained network", "eval model=runs/train1 data=mnist:data/mnist"},
    {"predict", "labels of images", "predict model=runs/train1 cat.png dogs/", "PNG or JPEG files, or folders of them"},
    {"summary", "layers, shapes, parameters, memory and plan of a network", "summary model=resnet20 batch=128"},
    {"tune", "measure every algorithm and launch parameter for a network, and remember", "tune model=resnet20 batch=128"},
    {"bench conv", "algorithms of an operation side by side (also gemm, pool ...)", "bench conv problems=li2019"},
    {"bench train", "time of a training step", "bench train model=mnist_cnn batch=64"},
    {"bench predict", "time of a prediction (on a GPU, of several in flight)", "bench predict model=mnist_cnn batch=1"},
    {"checks", "what this machine offers, and what falconet would use", "checks"},
    {"help", "this page, or the settings of a verb", "help train", "a verb"},
};

constexpr Setting settings[] = {
    // What is trained, and on what
    {"recipe", text, "", "train, eval, summary, tune, bench train, bench predict", "a recipe by name (recipes/NAME.toml) or file"},
    {"config", text, "", all_that_run, "a TOML file with settings, above the recipe and below the command line"},
    {"model", text, "", "train", "the network: {networks}"},
    {"model", text, "", "summary, tune, bench train, bench predict", "a run folder, a .safetensors file, or the network: {networks}"},
    {"model", text, "", "eval, predict", "a run folder or a .safetensors file; with weights=: the name of a network"},
    {"data", text, "", "train, eval, predict", "the data set, KIND:FOLDER: mnist, fashion_mnist, cifar10, or folder:PATH with images of your own (`falconet help data`)"},
    {"data", text, "", "summary", "take image size and classes from this data set"},

    // How it is trained
    {"epochs", whole, "10", "train", "passes over the training set", "", 1, most_count},
    {"batch", whole, "64", "train, bench train, summary, tune", "samples of a step", "", 1, 1 << 20},
    {"batch", whole, "256", "eval", "samples at a time", "", 1, 1 << 20},
    {"batch", whole, "1", "predict, bench predict", "samples at a time", "", 1, 1 << 20},
    {"label_smoothing", real, "0", "train", "share of a label spread over all classes", "", 0, 1, false, true},
    {"optimizer", choice, "sgd", "train", "how weights follow the gradient", "sgd, adam, adamw"},
    {"lr", real, "", "train", "learning rate at its peak; default: 0.01, adam and adamw 0.001", "", 0, 1e6, true},
    {"momentum", real, "0.9", "train", "of sgd", "", 0, 1, false, true},
    {"nesterov", flag, "false", "train", "Nesterov's momentum"},
    {"weight_decay", real, "", "train", "pull of the weights towards zero; default: 0, adamw 0.01", "", 0, 1e6},
    {"schedule", choice, "constant", "train", "course of the learning rate", "constant, step, cosine, one_cycle"},
    {"warmup", real, "", "train", "share of the steps in which the rate rises to its peak; default: 0, one_cycle 0.3", "", 0, 1, false, true},
    {"step_epochs", wholes, "", "train", "step schedule: the epochs after which the rate falls", "", 1, most_count},
    {"step_factor", real, "0.1", "train", "step schedule: by what it is multiplied", "", 0, 1, true},
    {"augment", texts, "", "train", "random changes to training images: cropN (shifts of up to N pixels), flip"},
    {"examples", whole, "", "train", "only so many samples, drawn by the seed evenly over the set; of the validation set too", "", 1, 1e9},
    {"validation", real, "0", "train", "share of the training set held out to choose the best weights by; 0: the test set, which val is then", "", 0, 1, false, true},
    {"seed", whole, "1", "train, summary, tune, bench train, bench predict", "of everything random: same seed, same bytes", "", 0},
    {"run", text, "", "train", "the run folder; default: the next free runs/trainN"},
    {"resume", text, "", "train", "a run folder to go on with"},
    {"weights", text, "", networks, "read the weights in this .safetensors file, as PyTorch names them; train: partial:FILE takes what fits"},
    {"classes", whole, "", "eval, predict, summary, tune, bench train, bench predict", "outputs of the network; default: the data's, or its own number", "", 1, 1 << 20},
    {"accuracy", real, "", "train", "what a recipe promises; the report says whether it was reached", "", 0, 1},

    // Where and how it is computed
    {"device", text, "auto", networks_with_checks, "auto, cpu or cuda:N"},
    {"device", text, "cpu", "bench conv", "devices side by side: cpu,cuda:0"},
    {"precision", choice, "f32", networks, "of activations and arithmetic; tf32, on a GPU alone: f32 with rounded factors in convolutions", "f32, tf32, bf16, f64"},
    {"threads", whole, "", networks, "CPU threads; default: the CPUs that the process may use", "", 1, 1024},
    {"threads", wholes, "", "bench conv", "CPU threads, one table each; default: all that the process may use", "", 1, 1024},
    {"isa", choice, "", all_that_run, "highest instruction set; default: the machine's", "plain, avx2, avx512"},
    {"rivals", flag, "off", compiled, "let vendor libraries compete"},
    {"rivals", flag, "on", "bench conv", "run vendor libraries too"},
    {"tune", choice, "off", "train, summary, bench train, bench predict", "choose by measurement; cache: by what this machine remembers; full: measure the rest, within a minute", "off, cache, full"},
    {"tune", choice, "search", "tune", "search: every launch parameter of every algorithm, anew; full: what nobody measured yet", "full, search"},
    {"pin", text, "", compiled, "run a layer by this algorithm: pin.conv1=direct, pin.conv1:fwd=naive:threads=128,blocks=64"},
    {"memory", text, "", "train, summary, bench train", "what a step may take with weights and optimizer states, 8GiB or 900MiB: some results are made again, the bytes stay the same"},
    {"feed", choice, "auto", "train", "how batches come to a GPU; the bytes are the same", "auto, resident, staged"},
    {"cuda.check", choice, "off", all_that_run, "sync: wait after each kernel, so that a fault names the one that caused it", "off, sync"},

    // What is shown
    {"count", whole, "", "predict", "so many images of the test set of data=", "", 1, 1e9},
    {"top", whole, "1", "predict", "labels shown for each image", "", 1, 1000},
    {"why", flag, "false", "summary", "name what else could run each launch, or why not"},
    {"after", text, "", "summary", "print the graph after this compiler pass"},
    {"problems", text, "", "bench conv", "a list by name (problems/conv/NAME.txt) or file, or one problem"},
    {"directions", texts, "fwd,bwd_data,bwd_filter", "bench conv", "directions to run; of convolution only"},
    {"layouts", texts, "", "bench conv", "nhwc, nchw or both side by side; of convolution; default: as the list has it, and both in a picture of a GPU"},
    {"precision", texts, "", "bench conv", "f32, tf32, bf16 or f64, several side by side: the element types of every problem in place of its own; of convolution"},
    {"batch", wholes, "", "bench conv", "the batch of every problem in place of its own; of convolution", "", 1, 1 << 20},
    {"algorithms", texts, "", "bench conv", "algorithms to run, with launch parameters or without: direct,naive:threads=128; default: all"},
    {"search", flag, "false", "bench conv", "try every launch parameter of every algorithm, and remember for tune=cache; plot= then draws a heat map"},
    {"rows", texts, "", "bench conv", "draw what json=true has printed into these files, instead of measuring; problems=: of these alone"},
    {"launches", choice, "graph", "bench conv", "how a GPU is timed: ten launches of one graph, or ten calls, the host's work included", "graph, calls"},
    {"repetitions", whole, "50", "bench conv", "timed runs of each algorithm, fewer for slow ones", "", 1, most_count},
    {"budget", real, "1", "bench conv", "seconds for each problem, shared by its algorithms", "", 0, 1e6, true},
    {"budget", real, "600", "tune", "seconds for measuring, in all", "", 0, 1e6, true},
    {"check", flag, "true", "bench conv", "compare results with the reference in f64, where that takes seconds at most"},
    {"plot", text, "", "bench conv", "draw the medians into this SVG file"},
    {"plot", text, "", "tune", "draw a heat map of the convolutions into this SVG file"},
    {"roofline", text, "", "bench conv", "draw every algorithm under the measured ceilings of the device into this SVG file"},
    {"steps", whole, "50", "bench train, bench predict", "timed steps", "", 1, most_count},
    {"json", flag, "false", with_rows, "one JSON object a row, for machines"},
};

constexpr Synonym synonyms[] = {
    {"learning_rate", "lr"}, {"learning", "lr"}, {"rate", "lr"}, {"decay", "weight_decay"}, {"wd", "weight_decay"}, {"l2", "weight_decay"},
    {"scheduler", "schedule"}, {"lr_schedule", "schedule"}, {"optim", "optimizer"}, {"warmup_epochs", "warmup"}, {"smoothing", "label_smoothing"},
    {"batch_size", "batch"}, {"bs", "batch"}, {"minibatch", "batch"}, {"num_epochs", "epochs"}, {"passes", "epochs"}, {"iterations", "steps"},
    {"samples", "examples"}, {"limit", "examples"}, {"limit", "count"}, {"random_seed", "seed"}, {"augmentation", "augment"}, {"transforms", "augment"},
    {"gpu", "device"}, {"cuda", "device"}, {"cpu", "device"}, {"dtype", "precision"}, {"amp", "precision"}, {"fp16", "precision"}, {"bf16", "precision"}, {"tf32", "precision"}, {"allow_tf32", "precision"},
    {"workers", "threads"}, {"num_threads", "threads"}, {"jobs", "threads"}, {"simd", "isa"},
    {"network", "model"}, {"net", "model"}, {"arch", "model"}, {"dataset", "data"}, {"data_dir", "data"},
    {"out", "run"}, {"output", "run"}, {"output_dir", "run"}, {"folder", "run"}, {"name", "run"}, {"continue", "resume"}, {"checkpoint", "resume"},
    {"max_memory", "memory"}, {"checkpointing", "memory"}, {"memory_limit", "memory"}, {"pretrained", "weights"}, {"load", "weights"}, {"checkpoint", "model"}, {"run", "model"}, {"topk", "top"},
};

}  // namespace

std::span<Setting const> settings_table() { return settings; }
std::span<Synonym const> synonyms_table() { return synonyms; }
std::span<Verb const> verbs_table() { return verbs; }

}  // namespace falconet
