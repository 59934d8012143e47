// OpenVINO: runs ONNX files on a CPU.
#include <algorithm>
#include <cstdint>
#include <exception>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.hpp"
#include "failure.hpp"

namespace hgfast {
namespace {

/// Messages of onnx.proto that contain tensors.
enum class Message { none, model, graph, node, attribute, tensor, sparse_tensor, training, function };

/// The message in a field of another message.
Message child(Message parent, std::uint64_t field) {
    switch (parent) {
        case Message::model:
            if (field == 7) return Message::graph;
            return field == 20 ? Message::training : field == 25 ? Message::function : Message::none;
        case Message::graph:
            if (field == 1) return Message::node;
            return field == 5 ? Message::tensor : field == 15 ? Message::sparse_tensor : Message::none;
        case Message::node: return field == 5 ? Message::attribute : Message::none;
        case Message::attribute:
            if (field == 5 || field == 10) return Message::tensor;
            if (field == 6 || field == 11) return Message::graph;
            return field == 22 || field == 23 ? Message::sparse_tensor : Message::none;
        case Message::sparse_tensor: return field == 1 || field == 2 ? Message::tensor : Message::none;
        case Message::training: return field == 1 || field == 2 ? Message::graph : Message::none;
        case Message::function: return field == 7 ? Message::node : field == 11 ? Message::attribute : Message::none;
        default: return Message::none;
    }
}

/// Throw std::runtime_error for a model that is not ONNX, or that keeps weights in another file: the file may be anywhere, and
/// the sidecar's checksum does not cover it. As hgfast/fileio/onnx_file.py.
void check_onnx(const std::string& bytes) {
    struct Part {
        Message message;
        std::size_t at, end;
    };
    std::vector<Part> parts = {{Message::model, 0, bytes.size()}};
    const auto broken = [] { return std::runtime_error("it is not a complete ONNX file"); };
    while (!parts.empty()) {
        auto [message, at, end] = parts.back();
        parts.pop_back();
        const auto varint = [&bytes, &broken, &at = at, end = end] {
            std::uint64_t value = 0;
            for (unsigned shift = 0; shift < 70 && at < end; shift += 7) {
                const auto byte = static_cast<std::uint8_t>(bytes[at++]);
                value |= std::uint64_t{byte & 0x7FU} << std::min(shift, 63U);
                if (byte < 0x80) return value;
            }
            throw broken();
        };
        while (at < end) {
            const std::uint64_t tag = varint() & 0xFFFFFFFF, field = tag >> 3, type = tag & 7;
            if (field == 0 || type > 5) throw broken();
            if (message == Message::tensor && field == 13)  // external_data
                throw std::runtime_error("it keeps weights in another file, which is not read");
            std::uint64_t length = type == 1 ? 8 : type == 5 ? 4 : 0;
            if (type == 0) varint();
            if (type == 2) length = varint();
            if (length > end - at) throw broken();
            const std::size_t next = at + static_cast<std::size_t>(length);
            const Message inner = type == 2 ? child(message, field) : Message::none;
            if (inner != Message::none) parts.push_back({inner, at, next});
            at = next;
        }
    }
}

class OpenVino final : public Runner {
public:
    OpenVino(const Artifact& artifact, const Options& options)
        : path_(artifact.path), sidecar_(artifact.sidecar), device_(options.device.empty() ? "CPU" : options.device) {
        check_cpu(options);
        try {
            check_onnx(artifact.bytes);
            const auto model = core_.read_model(artifact.bytes, ov::Tensor());
            check(*model);
            // by default OpenVINO uses bf16 on CPUs that support it
            ov::AnyMap hints = {ov::hint::inference_precision(ov::element::f32),
                                ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
            if (options.threads > 0 && device_ == "CPU") hints.emplace(ov::inference_num_threads(options.threads));
            compiled_ = core_.compile_model(model, device_, hints);
            request_ = compiled_.create_infer_request();
        } catch (const Failure&) {
            throw;
        } catch (const std::exception& error) {
            throw Failure(Code::bad_model,
                          path_ + " cannot be read by OpenVINO (" + one_line(error.what()) + "): export it again");
        }
    }

    void* input(int count) override {
        if (!input_ || input_.get_shape()[0] != static_cast<std::size_t>(count)) {
            const auto side = static_cast<std::size_t>(sidecar_.input_size), images = static_cast<std::size_t>(count);
            const auto type = sidecar_.normalized ? ov::element::f32 : ov::element::u8;
            input_ = ov::Tensor(type, sidecar_.normalized ? ov::Shape{images, 3, side, side} : ov::Shape{images, side, side, 3});
            request_.set_input_tensor(input_);
        }
        return input_.data();
    }

    const float* run(int count) override {
        try {
            request_.infer();
            output_ = request_.get_tensor(compiled_.output("keypoints"));
        } catch (const std::exception& error) {
            throw Failure(Code::failed, path_ + " failed in OpenVINO (" + one_line(error.what()) + ")");
        }
        const ov::Shape wanted = {static_cast<std::size_t>(count), static_cast<std::size_t>(sidecar_.joints()), 3};
        if (output_.get_shape() != wanted || output_.get_element_type() != ov::element::f32)
            throw Failure(Code::bad_model, path_ + " gives keypoints " + output_.get_shape().to_string() + ", not " +
                                               wanted.to_string() + " as its sidecar says: export it again");
        return output_.data<const float>();
    }

    std::string about() const override {
        return std::string("OpenVINO ") + ov::get_openvino_version().buildNumber + " on " + device_;
    }

private:
    /// Throw Failure for a stream, and for a device that OpenVINO does not have on this machine.
    void check_cpu(const Options& options) {
        try {
            if (options.stream == nullptr) {
                core_.get_property(device_, ov::supported_properties);
                return;
            }
        } catch (const std::exception&) {  // reported below
        }
        throw Failure(Code::bad_option,
                      "openvino runs on the CPU: leave out device and stream, or choose a runtime that uses a GPU");
    }

    /// Check that the inputs and outputs of the network match the sidecar.
    void check(const ov::Model& model) const {
        const auto side = static_cast<std::int64_t>(sidecar_.input_size), joints = static_cast<std::int64_t>(sidecar_.joints());
        const auto any = ov::Dimension::dynamic();
        const auto takes = sidecar_.normalized ? ov::PartialShape{any, 3, side, side} : ov::PartialShape{any, side, side, 3};
        const auto type = sidecar_.normalized ? ov::element::f32 : ov::element::u8;
        if (model.inputs().size() != 1 || !model.input().get_partial_shape().compatible(takes) ||
            model.input().get_element_type() != type)
            throw Failure(Code::bad_model, path_ + " does not take what its sidecar says: export it again");
        for (const auto& output : model.outputs())
            if (output.get_names().count("keypoints") > 0 && output.get_partial_shape().compatible({any, joints, 3})) return;
        throw Failure(Code::bad_model, path_ + " does not give the keypoints that its sidecar says: export it again");
    }

    std::string path_;
    Sidecar sidecar_;
    std::string device_;
    ov::Core core_;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    ov::Tensor input_, output_;
};

}  // namespace

std::unique_ptr<Runner> open_openvino(const Artifact& artifact, const Options& options) {
    return std::make_unique<OpenVino>(artifact, options);
}

}  // namespace hgfast
