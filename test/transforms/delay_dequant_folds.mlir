// RUN: qvit-opt %s --split-input-file --delay-dequant | filecheck %s

// Constants that multiply a dequantized tensor join its scale; a quantize behind a dequantize becomes a requantize.

func.func @mul_number(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<0.1> : tensor<f32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_number
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[Q]] <0.5 * 0.1, zero_point = 3>
// CHECK-NEXT:    return %[[Y]]

// -----

// The constant may come first, and be a number with dimensions of one.
func.func @mul_number_first(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[[-3.0]]> : tensor<1x1xf32>
  %y = qvit.mul %c, %x : (tensor<1x1xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_number_first
// CHECK-NEXT:    qvit.dequantize %{{.*}} <[0.5, 0.25] * -3.0, axis = 0>

// -----

// LayerScale: a vector along the last axis, of any shape that broadcasts to it.
func.func @mul_vector(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[3.0, 5.0, 7.0]> : tensor<3xf32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_vector
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.5 * [3.0, 5.0, 7.0], axis = 1>

// -----

func.func @mul_vector_along_channels(%q: tensor<1x2x3x3xi8>) -> tensor<1x2x3x3xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 1> : tensor<1x2x3x3xi8> -> tensor<1x2x3x3xf32>
  %c = qvit.constant dense<[[[3.0]], [[5.0]]]> : tensor<2x1x1xf32>
  %y = qvit.mul %x, %c : (tensor<1x2x3x3xf32>, tensor<2x1x1xf32>) -> tensor<1x2x3x3xf32>
  func.return %y : tensor<1x2x3x3xf32>
}
// CHECK-LABEL: @mul_vector_along_channels
// CHECK-NEXT:    qvit.dequantize %{{.*}} <[0.5, 0.25] * [3.0, 5.0], axis = 1>

// -----

// The zero points lie along one axis, the constant along another.
func.func @mul_vector_across_zero_points(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5, zero_point = [1, 2], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[3.0, 5.0, 7.0]> : tensor<3xf32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_vector_across_zero_points
// CHECK:         %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.mul %[[X]]

// -----

func.func @mul_vector_across_scale(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[3.0, 5.0, 7.0]> : tensor<3xf32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_vector_across_scale
// CHECK:         %[[X:.*]] = qvit.dequantize %{{.*}} <[0.5, 0.25], axis = 0>
// CHECK:         qvit.mul %[[X]]

// -----

func.func @mul_two_axes(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[[3.0, 5.0, 7.0], [1.0, 2.0, 3.0]]> : tensor<2x3xf32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_two_axes
// CHECK:         %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.mul %[[X]]

// -----

func.func @mul_enlarges(%q: tensor<1x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<1x3xi8> -> tensor<1x3xf32>
  %c = qvit.constant dense<[[3.0], [5.0]]> : tensor<2x1xf32>
  %y = qvit.mul %x, %c : (tensor<1x3xf32>, tensor<2x1xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_enlarges
// CHECK:         %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.mul %[[X]]

// -----

func.func @mul_adds_a_dimension(%q: tensor<3xi8>) -> tensor<1x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<3xi8> -> tensor<3xf32>
  %c = qvit.constant dense<3.0> : tensor<1x1xf32>
  %y = qvit.mul %x, %c : (tensor<3xf32>, tensor<1x1xf32>) -> tensor<1x3xf32>
  func.return %y : tensor<1x3xf32>
}
// CHECK-LABEL: @mul_adds_a_dimension
// CHECK:         %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.mul %[[X]]

// -----

// A factor that is no constant.
func.func @mul_by_argument(%q: tensor<2x3xi8>, %c: tensor<f32>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_by_argument
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.mul %[[X]]

// -----

// The other user keeps its own scale.
func.func @mul_shared(%q: tensor<2x3xi8>) -> (tensor<2x3xf32>, tensor<2x3xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<3.0> : tensor<f32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>
  func.return %x, %y : tensor<2x3xf32>, tensor<2x3xf32>
}
// CHECK-LABEL: @mul_shared
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize %[[Q]] <0.5>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[Q]] <0.5 * 3.0>
// CHECK-NEXT:    return %[[X]], %[[Y]]

// -----

func.func @mul_by_zero(%q: tensor<2xi8>) -> tensor<2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2xi8> -> tensor<2xf32>
  %c = qvit.constant dense<[0.0, 3.0]> : tensor<2xf32>
  %y = qvit.mul %x, %c : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}
// CHECK-LABEL: @mul_by_zero
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.5 * [0.0, 3.0], axis = 0>

// -----

// Infinity is no scale.
func.func @mul_by_infinity(%q: tensor<2xi8>) -> tensor<2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2xi8> -> tensor<2xf32>
  %c = qvit.constant dense<"0x0000807F"> : tensor<f32>
  %y = qvit.mul %x, %c : (tensor<2xf32>, tensor<f32>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}
// CHECK-LABEL: @mul_by_infinity
// CHECK:         qvit.mul

// -----

// The attention scale, as a division.
func.func @div_number(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<8.0> : tensor<f32>
  %y = qvit.div %x, %c : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @div_number
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.5 / 8.0>

// -----

// SmoothQuant: what was multiplied by is divided by again, and nothing is left of it.
func.func @mul_then_div(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[3.0, 5.0, 7.0]> : tensor<3xf32>
  %y = qvit.mul %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %z = qvit.div %y, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %z : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_then_div
// CHECK-NEXT:    qvit.dequantize %{{.*}} <0.5> :

// -----

func.func @div_vector(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[[3.0], [5.0]]> : tensor<2x1xf32>
  %y = qvit.div %x, %c : (tensor<2x3xf32>, tensor<2x1xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @div_vector
// CHECK-NEXT:    qvit.dequantize %{{.*}} <[0.5, 0.25] / [3.0, 5.0], axis = 0>

// -----

func.func @div_by_zero(%q: tensor<2xi8>) -> tensor<2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2xi8> -> tensor<2xf32>
  %c = qvit.constant dense<[3.0, 0.0]> : tensor<2xf32>
  %y = qvit.div %x, %c : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}
// CHECK-LABEL: @div_by_zero
// CHECK:         %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.div %[[X]]

// -----

// 1 / x is not linear in x.
func.func @div_of_constant(%q: tensor<2xi8>) -> tensor<2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2xi8> -> tensor<2xf32>
  %c = qvit.constant dense<3.0> : tensor<f32>
  %y = qvit.div %c, %x : (tensor<f32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}
// CHECK-LABEL: @div_of_constant
// CHECK:         %[[X:.*]] = qvit.dequantize
// CHECK:         qvit.div %{{.*}}, %[[X]]

// -----

// The factor goes into both scales. A bias in float takes it as a product of constants.
func.func @mul_of_bias_add(%q: tensor<2x3xi8>) -> (tensor<2x3xf32>, tensor<2x3xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %k = qvit.constant dense<[3.0, 5.0, 7.0]> : tensor<3xf32>
  %b = qvit.constant dense<[1, 2, 3]> : tensor<3xi8>
  %c = qvit.dequantize %b <0.25> : tensor<3xi8> -> tensor<3xf32>
  %y = qvit.add %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %z = qvit.mul %y, %k : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %d = qvit.constant dense<[0.1, 0.2, 0.3]> : tensor<3xf32>
  %v = qvit.add %d, %x : (tensor<3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %w = qvit.mul %k, %v : (tensor<3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  func.return %z, %w : tensor<2x3xf32>, tensor<2x3xf32>
}
// CHECK-LABEL: @mul_of_bias_add
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK:         %[[K:.*]] = qvit.constant dense<[3.0
// CHECK:         %[[B:.*]] = qvit.constant dense<[1, 2, 3]>
// CHECK:         %[[X:.*]] = qvit.dequantize %[[Q]] <0.5 * [3.0, 5.0, 7.0], axis = 1>
// CHECK-NEXT:    %[[C:.*]] = qvit.dequantize %[[B]] <0.25 * [3.0, 5.0, 7.0], axis = 0>
// CHECK-NEXT:    %[[Z:.*]] = qvit.add %[[X]], %[[C]]
// CHECK-NEXT:    %[[D:.*]] = qvit.constant dense<[{{1.0*e-01}}
// CHECK-NEXT:    %[[V:.*]] = qvit.dequantize %[[Q]] <0.5 * [3.0, 5.0, 7.0], axis = 1>
// CHECK-NEXT:    %[[E:.*]] = qvit.mul %[[D]], %[[K]]
// CHECK-NEXT:    %[[W:.*]] = qvit.add %[[V]], %[[E]]
// CHECK-NEXT:    return %[[Z]], %[[W]]

// -----

// The sum has another user, which is not multiplied.
func.func @mul_of_shared_bias_add(%q: tensor<2x3xi8>) -> (tensor<2x3xf32>, tensor<2x3xf32>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %k = qvit.constant dense<3.0> : tensor<f32>
  %c = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
  %y = qvit.add %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %z = qvit.mul %y, %k : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>
  func.return %y, %z : tensor<2x3xf32>, tensor<2x3xf32>
}
// CHECK-LABEL: @mul_of_shared_bias_add
// CHECK:         %[[Y:.*]] = qvit.add
// CHECK-NEXT:    %[[Z:.*]] = qvit.mul %[[Y]]

// -----

// The bias would grow.
func.func @mul_enlarges_bias(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %k = qvit.constant dense<[[3.0], [5.0]]> : tensor<2x1xf32>
  %c = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
  %y = qvit.add %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  %z = qvit.mul %y, %k : (tensor<2x3xf32>, tensor<2x1xf32>) -> tensor<2x3xf32>
  func.return %z : tensor<2x3xf32>
}
// CHECK-LABEL: @mul_enlarges_bias
// CHECK:         %[[Y:.*]] = qvit.add
// CHECK-NEXT:    qvit.mul %[[Y]]

// -----

// A residual connection is no bias.
func.func @mul_of_residual_add(%q: tensor<2xi8>, %r: tensor<2xi8>) -> tensor<2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2xi8> -> tensor<2xf32>
  %s = qvit.dequantize %r <0.5> : tensor<2xi8> -> tensor<2xf32>
  %k = qvit.constant dense<3.0> : tensor<f32>
  %y = qvit.add %x, %s : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  %z = qvit.mul %y, %k : (tensor<2xf32>, tensor<f32>) -> tensor<2xf32>
  func.return %z : tensor<2xf32>
}
// CHECK-LABEL: @mul_of_residual_add
// CHECK:         %[[Y:.*]] = qvit.add
// CHECK-NEXT:    qvit.mul %[[Y]]

// -----

// The same parameters, the same type: the codes themselves.
func.func @quantize_back(%f: tensor<2x3xf32>) -> tensor<2x3xi8> {
  %p = qvit.quantize %f <[0.5, 0.1], zero_point = 3, axis = 0> : tensor<2x3xf32> -> tensor<2x3xi8>
  %x = qvit.dequantize %p <[0.5, 0.1], zero_point = 3, axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.quantize %x <[0.5, 0.1], zero_point = 3, axis = 0> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %y : tensor<2x3xi8>
}
// CHECK-LABEL: @quantize_back
// CHECK-NEXT:    %[[P:.*]] = qvit.quantize
// CHECK-NEXT:    return %[[P]]

// -----

// Around an operation that only moves elements.
func.func @quantize_back_transposed(%f: tensor<2x3xf32>) -> tensor<3x2xi8> {
  %p = qvit.quantize %f <[0.5, 0.1], axis = 0> : tensor<2x3xf32> -> tensor<2x3xi8>
  %x = qvit.dequantize %p <[0.5, 0.1], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %t = qvit.transpose %x [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>
  %y = qvit.quantize %t <[0.5, 0.1], axis = 1> : tensor<3x2xf32> -> tensor<3x2xi8>
  func.return %y : tensor<3x2xi8>
}
// CHECK-LABEL: @quantize_back_transposed
// CHECK-NEXT:    %[[P:.*]] = qvit.quantize
// CHECK-NEXT:    %[[T:.*]] = qvit.transpose %[[P]] [1, 0] : tensor<2x3xi8> -> tensor<3x2xi8>
// CHECK-NEXT:    return %[[T]]

// -----

// One thing differs: the scale, the zero point, the type, the axis.
func.func @quantize_back_not(%f: tensor<2x2xf32>) -> (tensor<2x2xi8>, tensor<2x2xi8>, tensor<2x2xi4>, tensor<2x2xi8>) {
  %p = qvit.quantize %f <0.5> : tensor<2x2xf32> -> tensor<2x2xi8>
  %x = qvit.dequantize %p <0.5> : tensor<2x2xi8> -> tensor<2x2xf32>
  %a = qvit.quantize %x <0.25> : tensor<2x2xf32> -> tensor<2x2xi8>
  %b = qvit.quantize %x <0.5, zero_point = 1> : tensor<2x2xf32> -> tensor<2x2xi8>
  %c = qvit.quantize %x <0.5> : tensor<2x2xf32> -> tensor<2x2xi4>
  %y = qvit.dequantize %p <[0.5, 0.25], axis = 0> : tensor<2x2xi8> -> tensor<2x2xf32>
  %d = qvit.quantize %y <[0.5, 0.25], axis = 1> : tensor<2x2xf32> -> tensor<2x2xi8>
  func.return %a, %b, %c, %d : tensor<2x2xi8>, tensor<2x2xi8>, tensor<2x2xi4>, tensor<2x2xi8>
}
// CHECK-LABEL: @quantize_back_not
// CHECK-NEXT:    %[[P:.*]] = qvit.quantize
// CHECK-NEXT:    %[[A:.*]] = qvit.requantize %[[P]] by #qvit.real<0.5 / 0.25>
// CHECK-NEXT:    %[[B:.*]] = qvit.requantize %[[P]] by #qvit.real<1.0> zero_point <1>
// CHECK-NEXT:    %[[C:.*]] = qvit.requantize %[[P]] by #qvit.real<1.0> : tensor<2x2xi8> -> tensor<2x2xi4>
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[P]] <[0.5, 0.25], axis = 0>
// CHECK-NEXT:    %[[D:.*]] = qvit.quantize %[[Y]] <[0.5, 0.25], axis = 1>
// CHECK-NEXT:    return %[[A]], %[[B]], %[[C]], %[[D]]

// -----

// Another scale: the exact quotient.
func.func @requantize_scale(%q: tensor<2x3xi8>) -> tensor<2x3xi8> {
  %x = qvit.dequantize %q <0.5 / 3.0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.quantize %x <0.1 * 7.0 / 5.0> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %y : tensor<2x3xi8>
}
// CHECK-LABEL: @requantize_scale
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[Y:.*]] = qvit.requantize %[[Q]] by #qvit.real<0.5 * 5.0 / 3.0 / 0.1 / 7.0> :
// CHECK-NEXT:    return %[[Y]]

// -----

// Another zero point, another type, another rounding: none of them is the identity.
func.func @requantize_zero_point(%q: tensor<2xi8>) -> (tensor<2xi8>, tensor<2xi4>, tensor<2xui8>, tensor<2xi8>) {
  %x = qvit.dequantize %q <0.5, zero_point = 3> : tensor<2xi8> -> tensor<2xf32>
  %a = qvit.quantize %x <0.5, zero_point = 4> : tensor<2xf32> -> tensor<2xi8>
  %b = qvit.quantize %x <0.5, zero_point = 3> : tensor<2xf32> -> tensor<2xi4>
  %c = qvit.quantize %x <0.5, zero_point = 3> : tensor<2xf32> -> tensor<2xui8>
  %d = qvit.quantize %x <0.25, zero_point = 3> rounding half_away : tensor<2xf32> -> tensor<2xi8>
  func.return %a, %b, %c, %d : tensor<2xi8>, tensor<2xi4>, tensor<2xui8>, tensor<2xi8>
}
// CHECK-LABEL: @requantize_zero_point
// CHECK-NEXT:    qvit.requantize %{{.*}} by #qvit.real<1.0> input_zero_point <3> zero_point <4> : tensor<2xi8> -> tensor<2xi8>
// CHECK-NEXT:    qvit.requantize %{{.*}} by #qvit.real<1.0> input_zero_point <3> zero_point <3> : tensor<2xi8> -> tensor<2xi4>
// CHECK-NEXT:    qvit.requantize %{{.*}} by #qvit.real<1.0> input_zero_point <3> zero_point <3> : tensor<2xi8> -> tensor<2xui8>
// CHECK-NEXT:    qvit.requantize %{{.*}} by #qvit.real<0.5 / 0.25> input_zero_point <3> zero_point <3> rounding half_away : tensor<2xi8> -> tensor<2xi8>

// -----

// Per-axis parameters on either side, or on both.
func.func @requantize_per_axis(%q: tensor<2x3xi8>) -> (tensor<2x3xi8>, tensor<2x3xi8>) {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %a = qvit.quantize %x <[0.5, 0.25], zero_point = [1, 2], axis = 0> : tensor<2x3xf32> -> tensor<2x3xi8>
  %v = qvit.dequantize %a <[0.5, 0.25], zero_point = [1, 2], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %b = qvit.quantize %v <[3.0, 5.0], axis = 0> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %a, %b : tensor<2x3xi8>, tensor<2x3xi8>
}
// CHECK-LABEL: @requantize_per_axis
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>)
// CHECK-NEXT:    %[[A:.*]] = qvit.requantize %[[Q]] by #qvit.real<0.5 / [0.5, 0.25]> zero_point <[1, 2]> axis 0
// CHECK-NEXT:    %[[B:.*]] = qvit.requantize %[[A]] by #qvit.real<[0.5, 0.25] / [3.0, 5.0]> input_zero_point <[1, 2]> axis 0
// CHECK-NEXT:    return %[[A]], %[[B]]

// -----

// The scales cancel, the zero points along the axis remain.
func.func @requantize_zero_points_only(%q: tensor<2x3xi8>) -> tensor<2x3xi8> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.quantize %x <[0.5, 0.25], zero_point = [1, 2], axis = 0> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %y : tensor<2x3xi8>
}
// CHECK-LABEL: @requantize_zero_points_only
// CHECK-NEXT:    qvit.requantize %{{.*}} by #qvit.real<1.0> zero_point <[1, 2]> axis 0

// -----

func.func @requantize_axes_differ(%q: tensor<2x3xi8>) -> tensor<2x3xi8> {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.quantize %x <[0.5, 0.25, 2.0], axis = 1> : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %y : tensor<2x3xi8>
}
// CHECK-LABEL: @requantize_axes_differ
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize
// CHECK-NEXT:    qvit.quantize %[[X]] <[0.5, 0.25, 2.0], axis = 1>

// -----

// Two requantizes in a row round twice: they are never merged.
func.func @requantize_twice(%q: tensor<2xi8>) -> tensor<2xi8> {
  %x = qvit.dequantize %q <0.1> : tensor<2xi8> -> tensor<2xf32>
  %a = qvit.quantize %x <0.3> : tensor<2xf32> -> tensor<2xi8>
  %v = qvit.dequantize %a <0.3> : tensor<2xi8> -> tensor<2xf32>
  %b = qvit.quantize %v <0.1> : tensor<2xf32> -> tensor<2xi8>
  func.return %b : tensor<2xi8>
}
// CHECK-LABEL: @requantize_twice
// CHECK-NEXT:    %[[A:.*]] = qvit.requantize %{{.*}} by #qvit.real<0.1 / 0.3>
// CHECK-NEXT:    qvit.requantize %[[A]] by #qvit.real<0.3 / 0.1>

// -----

// The dequantize serves a quantize and a float operation.
func.func @requantize_shared(%q: tensor<2xi8>) -> (tensor<2xi8>, tensor<2xf32>) {
  %x = qvit.dequantize %q <0.1> : tensor<2xi8> -> tensor<2xf32>
  %a = qvit.quantize %x <0.3> : tensor<2xf32> -> tensor<2xi8>
  %r = qvit.relu %x : tensor<2xf32>
  func.return %a, %r : tensor<2xi8>, tensor<2xf32>
}
// CHECK-LABEL: @requantize_shared
// CHECK-SAME:    (%[[Q:.*]]: tensor<2xi8>)
// CHECK-NEXT:    %[[X:.*]] = qvit.dequantize %[[Q]]
// CHECK-NEXT:    qvit.requantize %[[Q]]
// CHECK-NEXT:    qvit.relu %[[X]]
